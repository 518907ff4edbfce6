"""The documentation's pictures are those that the methods give, and can be read by everybody."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import pictures

SVG = "{http://www.w3.org/2000/svg}"


def test_the_committed_pictures_are_what_the_tool_draws() -> None:
    assert pictures.main(["check"]) == 0


def test_an_old_or_missing_picture_is_found_and_drawn(tmp_path: Path) -> None:
    assert pictures.main(["check"], tmp_path) == 1
    assert pictures.main(["render"], tmp_path) == 0
    assert pictures.main(["check"], tmp_path) == 0
    (tmp_path / "upgrad.svg").write_text("<svg/>", "utf-8")
    assert pictures.main(["check"], tmp_path) == 1


@pytest.mark.parametrize("path", sorted(pictures.FOLDER.glob("*.svg")), ids=lambda path: path.name)
def test_a_picture_says_what_it_shows_and_follows_dark_mode(path: Path) -> None:
    root = ET.fromstring(path.read_text("utf-8"))  # noqa: S314  # the repository's own file
    assert root.findtext(f"{SVG}title")
    assert "prefers-color-scheme: dark" in (root.findtext(f"{SVG}style") or "")
