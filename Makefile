# Everything runs in .venv, made by python3 -m venv and filled by pip. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# What pip installs as torch. Once given it is kept in .venv; without it, the group in pyproject.toml:
# make test TORCH="torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu"
TORCH ?=

PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/*/pyproject.toml))
METADATA := pyproject.toml $(PLUGINS:%=%/pyproject.toml)
CODE := jdframework tools $(PLUGINS:%=%/src) $(wildcard benchmarks)
BENCHMARKS := instance_step task_step breakdown weightings overhead scaling autojac_modes chunked soak peers/reliability
PYTEST_ARGS ?=
DEMO_ARGS ?=
BENCH_ARGS ?=

.PHONY: help demo test check docs bench wheels chromium clean FORCE
.PHONY: check-lint check-format check-types check-imports check-metadata check-table
.PHONY: check-links check-gallery
.DELETE_ON_ERROR:

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /make \1\t/p' $(MAKEFILE_LIST)

demo: $(VENV)/installed  ## train with several methods on real data, and write report/report.html
	$(BIN)/jd demo $(DEMO_ARGS)

# As many processes as cores, of one thread each: threads that wait for a core spin. A file's tests
# stay together, for what they share is costly.
test: $(VENV)/test  ## the whole test suite; PYTEST_ARGS="-k upgrad" for a part, "-n 0" for one process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist loadfile \
		--no-loadscope-reorder $(PYTEST_ARGS)

check: check-lint check-format check-types check-imports check-metadata check-table check-links check-gallery  ## lint, format, types, imports, generated files

check-lint: $(VENV)/check
	$(BIN)/ruff check

check-format: $(VENV)/check
	$(BIN)/ruff format --check

check-types: $(VENV)/check
	$(BIN)/mypy $(CODE)

check-imports: $(VENV)/check
	$(BIN)/lint-imports

check-metadata: $(VENV)/check
	$(BIN)/python tools/plugin_metadata.py check

check-table: $(VENV)/check
	$(BIN)/python tools/method_table.py check

check-links: $(VENV)/check
	$(BIN)/python tools/links.py check

check-gallery: $(VENV)/check
	$(BIN)/python tools/gallery.py check

docs: $(VENV)/docs  ## the site, into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict  # --quiet would hide warnings from --strict

bench: $(VENV)/bench  ## every benchmark; BENCH_ARGS="--quick" for a short run
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py $(BENCH_ARGS) || exit 1; done
	$(BIN)/python benchmarks/plots.py

wheels: $(VENV)/installed  ## a wheel and an sdist of every distribution, into wheelhouse/
	$(BIN)/python tools/wheelhouse.py wheelhouse

# Without it the tests of the site in a browser are skipped.
chromium:  ## Chromium for the tests of the site, where there is none, by apt
	command -v chromium || command -v chromium-browser || command -v google-chrome \
		|| { test "$$(id -u)" = 0 && command -v apt-get > /dev/null \
			&& timeout 600 sh -c 'apt-get update -q && apt-get install -q -y chromium'; } \
		|| echo "Chromium is not installed, and cannot be from here: its tests are skipped"

clean:  ## removes .venv and everything that was built
	rm -rf $(VENV) wheelhouse site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# torch goes first and alone, so that nothing after it can choose another build.
$(VENV)/torch: $(VENV)/torch-wanted
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "jdframework needs Python 3.11 or later: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --upgrade "pip>=25.1,<27"
	$(PIP) uninstall --quiet --yes torch
	$(PIP) install $$(cat $<)
	touch $@

$(VENV)/torch-wanted: FORCE
	@mkdir -p $(VENV)
	@test -e $@ -a -z '$(TORCH)' || echo '$(or $(TORCH),--group torch)' | cmp --silent - $@ \
		|| echo '$(or $(TORCH),--group torch)' > $@

$(VENV)/installed: $(VENV)/torch $(METADATA)
	$(PIP) install --quiet --group build
	$(PIP) install --quiet --no-build-isolation --editable ".[solvers]" $(PLUGINS:%=--editable ./%)
	touch $@

$(VENV)/test $(VENV)/check $(VENV)/docs $(VENV)/bench: $(VENV)/%: $(VENV)/installed
	$(PIP) install --quiet --group $*
	touch $@

FORCE:
