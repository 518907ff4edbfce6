"""The metadata of plugins is rendered from one template, and drift is found."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import jdframework as jd
import plugin_metadata as plugins
import third_party

ALPHA = """
[project]
description = 'The "first" method'
dependencies = ["qpsolvers>=4.8"]

[project.entry-points."jdframework.weightings"]
alpha = "jd_plugin_alpha:Alpha"

[project.entry-points."jdframework.aliases.weightings"]
first = "jd_plugin_alpha:Alpha"

[tool.jdframework]
example = { power = 0.5 }
"""

BETA = """
[project]
description = "A second method"

[project.entry-points."jdframework.scalarizers"]
beta = "jd_plugin_beta:Beta"
"""

CODE = """
class {name}:
    paper = None
    trainable = False
    needs = frozenset({{"gramian"}})
"""

APPLICATION = """
[project]
description = "Greets"
dependencies = ["jdframework[testing]", "jd-plugin-alpha", "qpsolvers>=4.8"]

[project.optional-dependencies]
test = ["jd-plugin-beta", "pytest"]

[project.entry-points."jdframework.hooks"]
gamma = "jd_plugin_gamma"

[tool.jdframework]
recommended = true
"""

GREETING = """
from jdframework.hooks import hookimpl

@hookimpl
def jd_cli(app):
    app.command("greet")(greet)

def greet():
    'Greet the user.'
"""


def add_plugin(root: Path, family: str, name: str, pyproject: str) -> Path:
    folder = root / "plugins" / family / name
    package = folder / "src" / f"jd_plugin_{name}"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(CODE.format(name=name.title()), "utf-8")
    (package / "py.typed").touch()
    (folder / "tests").mkdir()
    (folder / "tests" / f"test_{name}.py").touch()
    (folder / "pyproject.toml").write_text(pyproject, "utf-8")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A repository with two plugins, fresh from their authors."""
    (tmp_path / "jdframework" / "registry").mkdir(parents=True)
    for file in ("pyproject.toml", "jdframework/__init__.py"):
        shutil.copy(plugins.ROOT / file, tmp_path / file)
    add_plugin(tmp_path, "weightings", "alpha", ALPHA)
    add_plugin(tmp_path, "scalarizers", "beta", BETA)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for module in ("jd_plugin_alpha", "jd_plugin_beta", "jd_plugin_gamma"):
        sys.modules.pop(module, None)


def metadata(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text("utf-8")
    assert old in text
    file.write_text(text.replace(old, new), "utf-8")


def test_the_repository_has_no_drift() -> None:
    assert plugins.drift(plugins.ROOT) == []


def test_rendering_completes_what_the_author_wrote(root: Path) -> None:
    plugins.render(root)
    project = metadata(root / "plugins/weightings/alpha")["project"]
    assert project["name"] == "jd-plugin-alpha"
    assert project["version"] == jd.__version__
    assert project["description"] == 'The "first" method'
    assert project["license"] == "MIT"


def test_rendering_twice_changes_nothing(root: Path) -> None:
    assert plugins.render(root)
    assert plugins.render(root) == []
    assert plugins.drift(root) == []


def test_hand_edited_dependencies_survive(root: Path) -> None:
    plugins.render(root)
    folder = root / "plugins/weightings/alpha"
    edit(folder / "pyproject.toml", '"qpsolvers>=4.8"', '"qpsolvers>=4.9", "quadprog"')
    plugins.render(root)
    dependencies = metadata(folder)["project"]["dependencies"]
    assert dependencies[-2:] == ["qpsolvers>=4.9", "quadprog"]


def test_entry_points_and_the_example_survive(root: Path) -> None:
    plugins.render(root)
    folder = root / "plugins/weightings/alpha"
    assert metadata(folder)["project"]["entry-points"] == {
        "jdframework.weightings": {"alpha": "jd_plugin_alpha:Alpha"},
        "jdframework.aliases.weightings": {"first": "jd_plugin_alpha:Alpha"},
    }
    assert 'jd.Descent(model, "alpha", power=0.5)' in (folder / "README.md").read_text("utf-8")


def test_optional_dependencies_survive(root: Path) -> None:
    extra = '[project.optional-dependencies]\nfast = ["numba>=0.60"]\n'
    file = root / "plugins/scalarizers/beta/pyproject.toml"
    file.write_text(BETA + extra, "utf-8")
    plugins.render(root)
    assert metadata(file.parent)["project"]["optional-dependencies"] == {"fast": ["numba>=0.60"]}


def dependencies(root: Path, folder: str) -> list[str]:
    found: list[str] = metadata(root / "plugins" / folder)["project"]["dependencies"]
    return found


def test_a_method_brings_the_engines_that_serve_what_it_looks_at(root: Path) -> None:
    plugins.render(root)
    engines = ["jd-plugin-autojac>=0.1.0,<0.2", "jd-plugin-autogram>=0.1.0,<0.2"]
    kernel = "jdframework>=0.1.0,<0.2"
    assert dependencies(root, "weightings/alpha")[:3] == [kernel, *engines]
    assert dependencies(root, "scalarizers/beta") == [kernel]


def test_a_weighting_of_the_jacobian_does_not_bring_the_gramians_engine(root: Path) -> None:
    code = root / "plugins/weightings/alpha/src/jd_plugin_alpha/__init__.py"
    edit(code, '"gramian"', '"jacobian"')
    plugins.render(root)
    assert dependencies(root, "weightings/alpha")[1:] == [
        "jd-plugin-autojac>=0.1.0,<0.2",
        "qpsolvers>=4.8",
    ]


@pytest.fixture
def application(root: Path) -> Path:
    """An application among the plugins of the repository."""
    folder = add_plugin(root, "apps", "gamma", APPLICATION)
    (folder / "src/jd_plugin_gamma/__init__.py").write_text(GREETING, "utf-8")
    return folder


def test_an_application_depends_on_the_siblings_it_names_in_the_kernels_releases(
    root: Path, application: Path
) -> None:
    plugins.render(root)
    edit(root / "jdframework/__init__.py", '__version__ = "0.1.0"', '__version__ = "1.4.2"')
    plugins.render(root)
    project = metadata(application)["project"]
    assert project["dependencies"] == [
        "jdframework[testing]>=1.4.2,<1.5",
        "jd-plugin-alpha>=1.4.2,<1.5",
        "qpsolvers>=4.8",
    ]
    assert project["optional-dependencies"] == {"test": ["jd-plugin-beta>=1.4.2,<1.5", "pytest"]}
    assert plugins.drift(root) == []


def test_the_commands_of_applications_are_what_their_observers_add(
    root: Path, application: Path
) -> None:
    plugins.render(root)
    assert json.loads((root / "jdframework/cli/applications.json").read_text("utf-8")) == [
        {"command": "greet", "distribution": "jd-plugin-gamma", "summary": "Greet the user"}
    ]
    assert "- `jd greet`: greet the user." in (application / "README.md").read_text("utf-8")


def extras(root: Path) -> dict[str, list[str]]:
    project = metadata(root)["project"]["optional-dependencies"]
    return {name: project[name] for name in ("recommended", "all")}


def test_the_extras_hold_every_plugin_and_the_recommended_ones(
    root: Path, application: Path
) -> None:
    before = metadata(root)["project"]["optional-dependencies"]["testing"]
    plugins.render(root)
    names = [f"jd-plugin-{name}>=0.1.0,<0.2" for name in ("alpha", "beta", "gamma")]
    assert extras(root) == {"recommended": names[2:], "all": names}
    assert metadata(root)["project"]["optional-dependencies"]["testing"] == before


def test_a_plugin_that_is_not_in_the_extras_is_found(root: Path) -> None:
    plugins.render(root)
    edit(root / "pyproject.toml", '    "jd-plugin-beta>=0.1.0,<0.2",\n', "")
    (line,) = plugins.drift(root)
    assert line.startswith("pyproject.toml: differs from its template")


def test_a_kernel_without_a_place_for_the_extras_is_found(root: Path) -> None:
    plugins.render(root)
    edit(root / "pyproject.toml", plugins.START, "#")
    assert any(line.startswith("pyproject.toml: needs the lines") for line in plugins.drift(root))


def test_a_new_kernel_version_reaches_every_plugin(root: Path) -> None:
    plugins.render(root)
    edit(root / "jdframework/__init__.py", '__version__ = "0.1.0"', '__version__ = "1.4.2"')
    assert any("beta/pyproject.toml: differs" in line for line in plugins.drift(root))
    plugins.render(root)
    project = metadata(root / "plugins/scalarizers/beta")["project"]
    assert project["version"] == "1.4.2"
    assert project["dependencies"] == ["jdframework>=1.4.2,<1.5"]


def test_the_directory_holds_every_name_in_order(root: Path) -> None:
    plugins.render(root)
    directory = json.loads((root / "jdframework/registry/directory.json").read_text("utf-8"))
    assert directory == [
        {
            "name": "alpha",
            "kind": "weighting",
            "distribution": "jd-plugin-alpha",
            "summary": 'The "first" method',
            "aliases": ["first"],
        },
        {
            "name": "beta",
            "kind": "scalarizer",
            "distribution": "jd-plugin-beta",
            "summary": "A second method",
            "aliases": [],
        },
    ]


@pytest.mark.parametrize(
    "file",
    [
        "plugins/scalarizers/beta/pyproject.toml",
        "plugins/scalarizers/beta/README.md",
        "jdframework/registry/directory.json",
    ],
)
def test_an_edited_file_is_found(root: Path, file: str) -> None:
    plugins.render(root)
    edit(root / file, "A second method", "A second  method")
    (line, *_) = plugins.drift(root)
    assert line.endswith("differs from its template; run python tools/plugin_metadata.py render")


@pytest.mark.parametrize("part", ["src/jd_plugin_beta/py.typed", "tests/test_beta.py"])
def test_a_missing_part_is_found(root: Path, part: str) -> None:
    plugins.render(root)
    (root / "plugins/scalarizers/beta" / part).unlink()
    (line,) = plugins.drift(root)
    assert line.startswith("plugins/scalarizers/beta: ")
    assert line.endswith(" is missing")


def test_a_plugin_without_metadata_is_found(root: Path) -> None:
    (root / "plugins/scalarizers/beta/pyproject.toml").unlink()
    assert any("No such file" in line for line in plugins.drift(root))


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("jd_plugin_beta:Beta", "jd_plugin_beta:Gamma", "cannot be loaded"),
        ("jd_plugin_beta:Beta", "jd_plugin_gamma:Beta", "cannot be loaded"),
        ("beta =", "Beta =", "the scalarizer 'Beta' is not in kebab-case"),
        ("jdframework.scalarizers", "jdframework.aliases.scalarizers", "needs a description"),
        ('description = "A second method"', "", "needs a description"),
        ("[project]", '[tool.black]\n[project]\nkeywords = ["x"]', "project.keywords, tool.black"),
        ("[project]", '[tool.flit.external-data]\ndirectory = "x"\n[project]', "tool.flit.ext"),
        ("[project]", "[project", "at line 2"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_plugin(
    root: Path, old: str, new: str, complaint: str
) -> None:
    plugins.render(root)
    file = root / "plugins/scalarizers/beta/pyproject.toml"
    file.write_text(BETA.replace(old, new), "utf-8")
    lines = [line for line in plugins.drift(root) if "differs from its template" not in line]
    (line,) = lines
    assert line.startswith("plugins/scalarizers/beta: ")
    assert complaint in line


def test_an_alias_of_nothing_is_found(root: Path) -> None:
    edit(
        root / "plugins/weightings/alpha/pyproject.toml",
        'first = "jd_plugin_alpha:Alpha"',
        'first = "jd_plugin_alpha:Other"',
    )
    assert "the alias 'first' points to no weighting of this plugin" in plugins.drift(root)[0]


def test_two_plugins_with_one_name_are_found(root: Path) -> None:
    edit(
        root / "plugins/scalarizers/beta/pyproject.toml",
        '[project.entry-points."jdframework.scalarizers"]\nbeta',
        '[project.entry-points."jdframework.weightings"]\nFIRST'.lower(),
    )
    assert (
        "plugins: the weighting 'first' is offered by jd-plugin-alpha and by jd-plugin-beta"
        in plugins.drift(root)
    )


THIRD_PARTY = """
[[plugin]]
name = "gamma"
kind = "weighting"
distribution = "jd-plugin-gamma"
summary = "Somebody else's"
"""


def publish(root: Path, text: str) -> None:
    (root / third_party.THIRD_PARTY).write_text(text, "utf-8")


def test_what_others_publish_gets_into_the_directory(root: Path) -> None:
    publish(root, THIRD_PARTY)
    plugins.render(root)
    directory = json.loads(
        (root / "jdframework" / "registry" / "directory.json").read_text("utf-8")
    )
    assert [entry["name"] for entry in directory] == ["alpha", "beta", "gamma"]
    assert directory[2] == {
        "aliases": [],
        "name": "gamma",
        "kind": "weighting",
        "distribution": "jd-plugin-gamma",
        "summary": "Somebody else's",
    }


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("kind =", "sort =", "entry 1 (gamma) needs the keys aliases, distribution, kind, name"),
        ('"weighting"', '"method"', "entry 1 (gamma): the kind is one of weighting"),
        ('"gamma"', '"Gamma_Ray"', "entry 1 (Gamma_Ray): 'Gamma_Ray' is not in kebab-case"),
        ('"gamma"', '"alpha"', "the weighting 'alpha' is offered by jd-plugin-alpha and by"),
        ("[[plugin]]", "[[plugin", "third-party.toml: "),
    ],
)
def test_a_mistake_in_what_others_publish_is_found(
    root: Path, old: str, new: str, complaint: str
) -> None:
    publish(root, THIRD_PARTY.replace(old, new))
    plugins.render(root)
    assert any(complaint in line for line in plugins.drift(root))


def test_check_fails_on_drift_and_render_mends_it(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert plugins.main(["check"], root) == 1
    assert plugins.main(["render"], root) == 0
    assert plugins.main(["check"], root) == 0
    assert "is up to date" in capsys.readouterr().out


def test_the_list_names_every_plugin(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert plugins.main(["list"], root) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["scalarizers", "beta", "scalarizer"],
        ["weightings", "alpha", "weighting", "needs", "qpsolvers>=4.8"],
    ]
