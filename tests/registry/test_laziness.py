from __future__ import annotations

import subprocess
import sys

import pytest

from jdframework.protocols.entry_points import hook_entry_points

HEAVY = (
    "torch",
    "numpy",
    "scipy",
    "pydantic",
    "pluggy",
    "jaxtyping",
    "typer",
    "rich",
    "jd_plugin_",
)


def imported_by(program: str) -> set[str]:
    """The modules that a fresh Python has imported after running ``program``."""
    report = "\nimport sys; print('\\n'.join(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", program + report], check=True, capture_output=True, text=True
    )
    return set(found.stdout.split())


@pytest.mark.parametrize(
    "program",
    [
        "import jdframework as jd",
        "import jdframework as jd; jd.available(); jd.available('weighting')",
        "import jdframework as jd; jd.JDError, jd.available, dir(jd)",
    ],
)
def test_importing_and_listing_import_nothing_heavy(program: str) -> None:
    heavy = [module for module in imported_by(program) if module.startswith(HEAVY)]
    assert not heavy


def test_an_unknown_name_is_answered_without_torch() -> None:
    program = (
        "import jdframework as jd\n"
        "try: jd.weighting('upgrd')\n"
        "except jd.UnknownNameError as error: assert 'upgrad' in str(error)\n"
        "else: raise SystemExit('resolved')"
    )
    assert "torch" not in imported_by(program)


def test_resolving_one_name_imports_no_other_plugin_and_no_pytest() -> None:
    modules = imported_by("import jdframework as jd; jd.weighting('mean')")
    observers = {entry_point.value for entry_point in hook_entry_points()}
    plugins = {module for module in modules if module.startswith("jd_plugin_")}
    assert plugins - observers == {"jd_plugin_mean"}
    assert not {"pytest", "hypothesis", "typer"} & modules


def test_an_application_is_loaded_at_next_to_no_cost_until_jd_starts() -> None:
    values = [entry.value for entry in hook_entry_points()]
    assert "jd_plugin_demo" in values
    modules = imported_by("import jdframework as jd; jd.hooks.call('jd_step', step=None)")
    assert set(values) <= modules
    allowed = {"pluggy", *values}
    heavy = {module for module in modules if module.startswith(HEAVY)}
    assert {module for module in heavy if not module.startswith("pluggy.")} == allowed
