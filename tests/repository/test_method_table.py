"""The table of methods in the README is made of what the methods say of themselves."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import jdframework as jd
import method_table


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    return Path(shutil.copy(method_table.ROOT / "README.md", tmp_path))


def row(name: str) -> str:
    lines = method_table.method_table(lambda name: name).splitlines()
    (found,) = [line for line in lines if line.startswith(f"| {name} ")]
    return found


def test_the_readme_is_up_to_date() -> None:
    assert method_table.main(["check"]) == 0


def test_an_edited_table_is_found_and_mended(readme: Path) -> None:
    before = readme.read_text("utf-8")
    readme.write_text(before.replace("| `uw` | scalarizer |", "| `uw` | weighting |"), "utf-8")
    assert method_table.main(["check"], readme) == 1
    assert method_table.main(["render"], readme) == 0
    assert readme.read_text("utf-8") == before


def test_the_text_around_the_table_is_kept(readme: Path) -> None:
    readme.write_text(f"a\n{method_table.START}\nwhat was here\n{method_table.END}\nb\n", "utf-8")
    method_table.main(["render"], readme)
    text = readme.read_text("utf-8")
    assert text.startswith("a\n")
    assert text.endswith("\nb\n")
    assert "what was here" not in text


def test_a_readme_without_the_markers_is_refused(readme: Path) -> None:
    readme.write_text("no table here\n", "utf-8")
    with pytest.raises(SystemExit, match="needs the lines"):
        method_table.main(["check"], readme)


def test_every_published_name_has_a_row() -> None:
    tables = method_table.method_table(str) + method_table.engine_table(str)
    assert all(f"\n| {name}" in tables for name in jd.available())


def test_a_row_says_what_is_known_of_a_method() -> None:
    paper = "[CVPR 2018](https://arxiv.org/abs/1705.07115)"
    assert row("uw").endswith(f"| {paper} | losses | learned | `pip install jd-plugin-uw` |")
    assert row("random").startswith("| random (`rlw`) | weighting, scalarizer |")
    assert "| nothing | kept |" in row("random")
    assert "| gramian | none |" in row("upgrad")
