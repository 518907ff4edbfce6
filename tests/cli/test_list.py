"""``jd list``."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import jdframework
from jdframework.protocols.entry_points import hook_entry_points
from jdframework.protocols.names import KINDS, Kind

from .conftest import Command
from .fabrication import BROKEN, Site


def test_every_name_is_listed_with_what_is_known_of_it(jd: Command) -> None:
    ended = jd("list", "--json")
    listed = {entry["name"]: entry for entry in json.loads(ended.out)}
    assert ended.status == 0
    assert sorted(listed) == jdframework.available()
    assert listed["mean"] == {
        "name": "mean",
        "kinds": ["weighting", "scalarizer"],
        "aliases": [],
        "distribution": "jd-plugin-mean",
        "version": jdframework.__version__,
        "summary": listed["mean"]["summary"],
        "status": "ok",
        "reason": "",
    }
    assert all(entry["summary"] for entry in listed.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_narrows_the_list(jd: Command, kind: Kind) -> None:
    listed = json.loads(jd("list", "--kind", kind, "--json").out)
    assert [entry["name"] for entry in listed] == jdframework.available(kind)
    assert all(entry["kinds"] == [kind] for entry in listed)


def test_an_empty_kind_is_said_in_a_sentence(jd: Command) -> None:
    if jdframework.available("aggregator"):
        pytest.skip("an aggregator is installed")
    assert jd("list", "--kind", "aggregator").out == "No aggregator is installed.\n"


def test_the_table_shows_names_aliases_kinds_distributions_versions_and_summaries(
    jd: Command, site: Site
) -> None:
    groups = {
        "jdframework.weightings": {"first": "fabricated:First"},
        "jdframework.scalarizers": {"first": "fabricated:Other"},
        "jdframework.aliases.weightings": {"erst": "fabricated:First"},
    }
    site.install("jd-plugin-first", groups, version="3.2.1", summary="The first of all")
    (line,) = (line for line in jd("list").out.splitlines() if line.startswith("first"))
    shown = " ".join(line.split())
    assert shown == "first (erst) weighting, scalarizer jd-plugin-first 3.2.1 The first of all"


def test_a_broken_plugin_is_listed_and_not_imported(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-wreck", "wreck", BROKEN, summary="Cannot be imported")
    ended = jd("list")
    assert ended.status == 0
    assert "Cannot be imported" in ended.out


def test_a_clash_is_shown_with_both_distributions(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-one", "twice")
    site.weighting("jd-plugin-two", "Twice")
    listed = json.loads(jd("list", "--json").out)
    clashing = [entry for entry in listed if entry["status"] == "clash"]
    assert [entry["distribution"] for entry in clashing] == ["jd-plugin-one", "jd-plugin-two"]
    assert jd("list").out.count("clash: offered by jd-plugin-one and by jd-plugin-two") == 2


def test_only_the_kind_that_clashes_is_shown_as_clashing(jd: Command, site: Site) -> None:
    site.install(
        "jd-plugin-both",
        {
            "jdframework.weightings": {"twice": "both:First"},
            "jdframework.scalarizers": {"twice": "both:Second"},
        },
    )
    site.weighting("jd-plugin-rival", "twice")
    listed = json.loads(jd("list", "--json").out)
    found = [(e["distribution"], e["kinds"], e["status"]) for e in listed if e["name"] == "twice"]
    assert found == [
        ("jd-plugin-both", ["weighting"], "clash"),
        ("jd-plugin-both", ["scalarizer"], "ok"),
        ("jd-plugin-rival", ["weighting"], "clash"),
    ]


@pytest.mark.parametrize("blocked", ["up.grad", "jd-plugin-upgrad"])
def test_a_blocked_name_is_shown_with_the_variable_that_blocks_it(
    jd: Command, blocked: str
) -> None:
    ended = jd("list", JD_DISABLE_PLUGINS=blocked)
    (line,) = (line for line in ended.out.splitlines() if line.startswith("upgrad"))
    assert "blocked: the environment variable JD_DISABLE_PLUGINS blocks it" in line


def imported_by(*arguments: str, blocked: str = "") -> set[str]:
    """What ``jd`` has imported when it ends."""
    code = (
        "import sys; from jdframework.cli import main\n"
        f"sys.argv = ['jd', *{arguments!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "JD_DISABLE_PLUGINS": blocked},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", [["list"], ["list", "--json"], ["--help"], ["--version"]])
def test_neither_torch_nor_a_method_nor_what_an_application_needs_is_imported(
    arguments: list[str],
) -> None:
    heavy = {
        "torch",
        "numpy",
        "scipy",
        "sklearn",
        "matplotlib",
        "jinja2",
        "copier",
        "rich.progress",
    }
    modules = imported_by(*arguments)
    assert not modules & heavy
    observers = tuple(entry_point.value for entry_point in hook_entry_points())
    plugins = [module for module in modules if module.startswith("jd_plugin_")]
    assert [module for module in plugins if not module.startswith(observers)] == []


def test_without_an_observer_pluggy_is_not_imported() -> None:
    names = ",".join(entry_point.name for entry_point in hook_entry_points())
    assert "pluggy" not in imported_by("list", blocked=names)


def test_a_narrow_terminal_gets_every_summary_whole(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-wordy", "wordy", summary=" ".join(["word"] * 30))
    out = jd("list", COLUMNS="70").out
    assert max(map(len, out.splitlines())) <= 70
    assert " ".join(["word"] * 30) in " ".join(out.split())


def test_json_is_neither_wrapped_nor_anything_but_ascii(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-wordy", "wordy", summary="‖Jᵀw‖ " * 40)
    out = jd("list", "--json", COLUMNS="20").out
    assert out.isascii()
    assert "‖Jᵀw‖ " * 39 in next(e["summary"] for e in json.loads(out) if e["name"] == "wordy")


def test_markup_in_a_summary_is_printed_as_it_is(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-odd", "odd", summary="Uses [red]x[/red] and [/]")
    assert "Uses [red]x[/red] and [/]" in jd("list").out


def test_there_are_no_colours_in_a_pipe(installed_jd: Command) -> None:
    ended = installed_jd("list")
    assert ended.status == 0
    assert "upgrad" in ended.out
    assert "\x1b" not in ended.out + ended.err


def test_a_stream_that_cannot_encode_a_summary_gets_question_marks(
    installed_jd: Command, site: Site
) -> None:
    site.weighting("jd-plugin-odd", "odd", summary="‖Jᵀw‖")
    ended = installed_jd("list", PYTHONIOENCODING="ascii")
    assert ended.status == 0
    assert "?J?w?" in ended.out


def test_an_unknown_kind_is_refused_with_the_four_there_are(jd: Command) -> None:
    ended = jd("list", "--kind", "weigthing")
    assert ended.status == 2
    assert all(kind in ended.err for kind in KINDS)
