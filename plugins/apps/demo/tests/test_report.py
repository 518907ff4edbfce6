"""The report has everything in it, and needs nothing else."""

from __future__ import annotations

import base64
import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

import jdframework as jd

from jd_plugin_demo import report, table
from jd_plugin_demo.comparison import Comparison, compare
from jd_plugin_demo.data import Pairs
from jd_plugin_demo.model import TASKS
from jd_plugin_report import folder, theme
from jd_plugin_report.contestants import contestants

from .conftest import METHODS, TINY

COMMAND = "jd demo --quick --out 'a <folder>'"


class Page(HTMLParser):
    """What a browser would find."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def html(comparison: Comparison) -> str:
    return report.render(comparison, COMMAND)


@pytest.fixture(scope="module")
def page(html: str) -> Page:
    return Page(html)


def test_the_page_loads_nothing_from_anywhere(page: Page) -> None:
    for tag, attributes in page.tags:
        assert tag not in {"script", "iframe", "object", "embed", "base"}
        for name in ("src", "srcset", "poster", "background"):
            assert (attributes.get(name) or "data:").startswith("data:")
        if tag == "link":
            assert attributes["href"] == "data:,"
        if tag == "a":
            assert (attributes["href"] or "").startswith("https://")
        assert (attributes.get("xlink:href") or "#").startswith("#")


def test_there_is_not_even_a_name_of_a_server_but_in_the_links(html: str, page: Page) -> None:
    links = [attributes["href"] for tag, attributes in page.tags if tag == "a"]
    assert len(re.findall(r"https?://", html)) == len(links)


def test_style_sheets_load_nothing_from_anywhere(html: str) -> None:
    assert "@import" not in html
    assert all(found.startswith("#") for found in re.findall(r"url\(([^)]*)\)", html))
    assert "default-src 'none'" in html


def test_the_table_is_in_the_page(comparison: Comparison, page: Page) -> None:
    for row in table.rows(comparison.results):
        shown = (
            f"{row['method']} {row['kind']} {100 * row['accuracy_left']:.1f} % "
            f"{100 * row['accuracy_right']:.1f} % {100 * row['mean_accuracy']:.1f} % "
            f"{100 * row['conflict']:.0f} % {1000 * row['seconds_per_step']:.1f}"
        )
        assert shown in page.text


@pytest.mark.parametrize(
    "drawing",
    [
        "accuracy",
        *(f"loss-{task}" for task in TASKS),
        *(f"{what}-{index}" for what in ("conflict", "weights") for index in range(len(METHODS))),
    ],
)
def test_each_drawing_is_in_the_page_with_a_description(page: Page, drawing: str) -> None:
    names = {attributes.get("id") for _, attributes in page.tags}
    assert f"{drawing}-figure_1" in names
    drawings = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert all(attributes["aria-label"] for attributes in drawings)


def test_each_curve_is_named_where_it_ends(page: Page) -> None:
    # Once in the table, the drawing of the accuracy, those of both losses, and its own two.
    for name in METHODS:
        assert page.texts.count(name) >= 5


def test_no_two_elements_share_an_identifier(page: Page) -> None:
    found = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(found) == len(set(found))


def test_every_reference_inside_a_drawing_has_its_target(html: str, page: Page) -> None:
    targets = {attributes["id"] for _, attributes in page.tags if attributes.get("id")}
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', html))
    assert used
    assert used <= targets


def test_what_was_done_is_told(page: Page) -> None:
    for expected in (
        f"{TINY.train_pairs} training pictures",
        f"{TINY.test_pairs} held-out pictures",
        f"learning rate {TINY.learning_rate}",
        "jdframework " + jd.__version__,
        f"torch {torch.__version__}",
        "jd-plugin-upgrad " + jd.__version__,
        "scikit-learn",
        COMMAND,
    ):
        assert expected in page.text
    assert re.search(rf"seed {TINY.seed}\b", page.text)


def test_the_command_line_cannot_become_markup(html: str) -> None:
    assert "<folder>" not in html


def test_the_examples_show_pictures_labels_and_readings(comparison: Comparison, page: Page) -> None:
    found = report.examples(comparison.digits, comparison.results)
    assert len(found) == 6
    for example in found[1:]:
        assert not all(all(reading.is_right) for reading in example.readings)
    for example in found:
        assert [reading.method for reading in example.readings] == list(METHODS)
        for reading in example.readings:
            read = zip(reading.digits, example.labels, strict=True)
            assert reading.is_right == tuple(a == b for a, b in read)
        assert example.picture in {attributes.get("src") for _, attributes in page.tags}


def test_the_first_example_has_two_unlike_digits(comparison: Comparison) -> None:
    test = comparison.digits.test
    alike = (test.labels[:, 0] == test.labels[:, 1]).long()
    order = torch.argsort(alike, descending=True, stable=True)
    sorted_test = Pairs(test.images[order], test.labels[order], test.sources[order])
    digits = replace(comparison.digits, test=sorted_test)
    results = [replace(r, predictions=r.predictions[order]) for r in comparison.results]
    assert alike.sum() > 0
    first = report.examples(digits, results)[0]
    assert first.labels[0] != first.labels[1]


def test_a_picture_is_the_networks_input(comparison: Comparison) -> None:
    example = report.examples(comparison.digits, comparison.results)[0]
    data = base64.b64decode(example.picture.removeprefix("data:image/png;base64,"))
    assert data.startswith(b"\x89PNG")
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (12, 10)


def test_one_perfect_method_is_reported_without_wrong_readings(
    comparison: Comparison,
) -> None:
    result = comparison.results[0]
    perfect = replace(result, predictions=comparison.digits.test.labels, accuracies=(1.0, 1.0))
    alone = replace(comparison, results=[perfect])
    text = Page(report.render(alone, COMMAND)).text
    assert "sum read 100.0 % of the digits correctly." in text
    assert "one method" in text
    assert "✗" not in text


def test_a_method_without_weights_is_reported_without_their_drawing(
    comparison: Comparison,
) -> None:
    result = comparison.results[0]
    nothing = torch.full_like(result.curve.weights, torch.nan)
    bare = replace(result, curve=replace(result.curve, weights=nothing))
    alone = replace(comparison, results=[bare])
    assert "Weights of the tasks" not in Page(report.render(alone, COMMAND)).text


def test_more_methods_than_colours_are_told_apart_by_dashes() -> None:
    names = ["sum", "uw", "mgda", "upgrad", "mean", "random", "imtl-g"]
    found = compare(contestants(names), TINY, lambda name, steps: None)
    assert "stroke-dasharray" in report.figures.loss(found.results, 0)


def read_csv(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_files_hold_the_numbers(comparison: Comparison, tmp_path: Path) -> None:
    written = report.write(comparison, tmp_path / "new" / "folder", COMMAND)
    assert written.report == tmp_path / "new" / "folder" / "report.html"
    results = read_csv(written.results)
    for row, expected in zip(results, table.rows(comparison.results), strict=True):
        assert row["method"] == expected["method"]
        assert float(row["mean_accuracy"]) == expected["mean_accuracy"]
    curves = read_csv(written.curves)
    assert len(curves) == len(METHODS) * TINY.steps
    last = curves[-1]
    curve = comparison.results[-1].curve
    assert (last["method"], last["step"], last["epoch"]) == ("upgrad", str(TINY.steps), "2")
    assert float(last["loss_right"]) == pytest.approx(float(curve.losses[-1, 1]), rel=1e-5)
    assert float(last["weight_left"]) == pytest.approx(float(curve.weights[-1, 0]), rel=1e-5)
    assert [row["cosine"] != "" for row in curves[:7]] == [True, False, False] * 2 + [True]


def test_a_second_report_replaces_the_first(comparison: Comparison, tmp_path: Path) -> None:
    report.write(comparison, tmp_path, "jd demo --seed 1")
    written = report.write(comparison, tmp_path, "jd demo --seed 2")
    text = written.report.read_text(encoding="utf-8")
    assert "--seed 2" in text
    assert "--seed 1" not in text


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    tmp_path.joinpath("file").write_text("")
    with pytest.raises(jd.JDError, match=r"the folder .*file/x cannot be made"):
        folder.prepare(tmp_path / "file" / "x")


def test_the_same_results_give_the_same_page(comparison: Comparison, html: str) -> None:
    assert hash(report.render(comparison, COMMAND)) == hash(html)


def test_no_stand_in_colour_is_left(html: str) -> None:
    for colour in theme.PALETTE.values():
        assert colour.stand_in not in html
    for index in range(len(METHODS)):
        assert f"stroke: var({theme.series_look(index).colour.variable})" in html


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("mode", "background"), [("light", "#ffffff"), ("dark", "#14161a")])
def test_labels_can_be_read_in_both_modes(html: str, mode: str, background: str) -> None:
    assert f"--page: {background}" in html
    for colour in theme.PALETTE.values():
        if colour.variable != "--line":
            pair = sorted([luminance(getattr(colour, mode)), luminance(background)])
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, colour
