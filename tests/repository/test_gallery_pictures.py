"""Every method has its picture, drawn by the code that is there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

import gallery


@pytest.fixture(scope="module")
def methods() -> dict[str, gallery.Contestant]:
    return {method.name: method for method in gallery.drawn_methods()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the pictures."""
    return Path(shutil.copytree(gallery.PICTURES, tmp_path / "gallery"))


def test_there_is_a_picture_of_every_method_by_the_present_code(
    methods: dict[str, gallery.Contestant],
) -> None:
    assert gallery.stale_files(list(methods)) == []


def test_some_methods_take_the_courses_that_are_drawn(
    methods: dict[str, gallery.Contestant],
) -> None:
    assert gallery.differences([methods["uw"], methods["mgda"]]) == []


def test_another_course_is_found(methods: dict[str, gallery.Contestant], folder: Path) -> None:
    record = folder / "courses.json"
    content = json.loads(record.read_text("utf-8"))
    content["courses"]["sum"]["element-wise"][0][1][0] += 0.5
    record.write_text(json.dumps(content), "utf-8")
    (line,) = gallery.differences([methods["sum"], methods["mean"]], folder)
    assert line.startswith("sum: takes another course now")


def test_a_missing_a_needless_and_an_old_picture_are_found(
    methods: dict[str, gallery.Contestant], folder: Path
) -> None:
    (folder / "upgrad.svg").rename(folder / "downgrad.svg")
    record = folder / "courses.json"
    record.write_text(record.read_text("utf-8").replace(gallery.fingerprint(), "0"), "utf-8")
    lines = [line.partition(";")[0] for line in gallery.stale_files(list(methods), folder)]
    assert lines == [
        "upgrad: has no picture",
        "downgrad.svg: is the picture of no method",
        "the code that draws has changed",
    ]
