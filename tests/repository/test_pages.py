"""The pages that are made of the methods and of the figures say what these say."""

from __future__ import annotations

import json
from html import unescape
from pathlib import Path

import pytest

import jdframework as jd
from method_table import described
from pages import benchmarks, commands, directory, method, methods, reliability, results
from pages.docstring import parts

METHODS = [found for found in described() if "engine" not in found.kinds]


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    return method.pages()


def test_every_name_has_a_page_and_a_row(pages: dict[str, str]) -> None:
    assert set(pages) == {f"methods/{name}.md" for name in jd.available()}
    table = methods.pages()["methods.md"]
    assert table.count("<tr data-kind=") == len(METHODS)
    for found in METHODS:
        assert f'href="methods/{found.name}.html"' in table


@pytest.mark.parametrize("found", METHODS, ids=lambda found: found.name)
def test_a_page_says_everything_of_its_method(pages: dict[str, str], found: jd.Method) -> None:
    page = pages[f"methods/{found.name}.md"]
    assert found.summary.rstrip(".") in page
    assert f"pip install {found.distribution}" in page
    assert '<div class="formula"><math ' in page
    assert f'aria-label="The paths of {found.name} on two problems' in page
    for field in found.config_schema["properties"]:
        assert f"| `{field}` |" in page
    if found.paper is not None:
        assert found.paper.title in unescape(page)
        assert found.paper.url in unescape(page)


def test_a_measured_method_shows_its_cost(pages: dict[str, str]) -> None:
    rows = json.loads((results.RESULTS / "weightings-cpu.json").read_text("utf-8"))["rows"]
    first = next(row for row in rows if row["method"] == "MGDA" and row["m"] == 8)
    page = pages["methods/mgda.md"]
    assert f"| 8 | {1e3 * first['ours']['median']:.3g} (" in page
    assert "## Cost" not in pages["methods/dwa.md"]


def test_what_is_said_of_others_stands_by_itself() -> None:
    text = """Averages.

    .. math::
        a = 1 / m

    The weights sum to one. torchjd lets them sum to ``m``. A zero stays.

    It is exact.

    LibMTL adds 1e-8.

    :param b: Not shown
        here.

    >>> 1 + 1
    2
    """
    found = parts(text)
    assert found.summary == "Averages."
    assert found.others == "torchjd lets them sum to ``m``. A zero stays.\n\nLibMTL adds 1e-8."
    formula, *rest = found.description.split("\n\n")
    assert formula.startswith('<div class="formula">')
    assert rest == ["The weights sum to one.", "It is exact."]
    assert found.example == "```pycon\n>>> 1 + 1\n2\n```"


@pytest.mark.parametrize("result", results.results(), ids=lambda result: result.path.stem)
def test_every_file_of_figures_is_on_a_page_with_its_machine(result: results.Result) -> None:
    if result.benchmark in reliability.BENCHMARKS:
        assert results.where(result.machine) in reliability.pages()["explanation/reliability.md"]
        return
    page = benchmarks.pages()["benchmarks.md"]
    assert f"assets/benchmarks/{result.path.name}" in page
    assert results.where(result.machine) in page
    if result.plot is not None:
        assert f"assets/benchmarks/{result.plot.name}" in page
    for rows in result.tables.values():
        assert results.cell(rows[0][next(iter(rows[0]))]) in page


def test_a_file_of_another_form_is_shown_as_far_as_it_is_a_table(tmp_path: Path) -> None:
    content = {"machine": {"device": "x"}, "cases": [{"a": 1.0, "b": None}, {"c": [True, 2]}]}
    (tmp_path / "new-cuda.json").write_text(json.dumps(content), "utf-8")
    (result,) = results.results(tmp_path)
    assert (result.benchmark, result.device, list(result.tables)) == ("new", "cuda", ["cases"])
    assert results.columns(result.tables["cases"]) == ["a", "b", "c"]
    assert results.cell([True, 2]) == "yes, 2"


def test_the_directory_has_every_published_plugin() -> None:
    page = directory.pages()["plugins/directory.md"]
    for name in jd.available():
        assert f"| `{name}`" in page
    for command in ("bench", "demo", "gallery", "new", "update"):
        assert f"| `jd {command}` |" in page


def test_every_command_is_on_the_page_with_its_options() -> None:
    page = commands.pages()["reference/command-line.md"]
    for command in ("list", "show", "doctor", "new", "check", "demo", "gallery", "bench"):
        assert f"\n## jd {command}\n" in page
    assert "\nComes with `pip install jd-plugin-template`.\n\n```\njd new [" in page
    assert "jd show [OPTIONS] NAME\n" in page
    assert "jd check [OPTIONS] [NAMES…]\n" in page
    assert "| `--methods` | `mean,mgda,upgrad` | The methods to draw" in page
