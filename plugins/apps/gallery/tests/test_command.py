"""``jd gallery``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias
from xml.etree import ElementTree

import pytest

from jdframework.cli import main

from jd_plugin_report.theme import PALETTE

Gallery: TypeAlias = Callable[..., tuple[int, str, str]]


@pytest.fixture
def gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Gallery:
    """``jd gallery``: its status, and what it printed."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        monkeypatch.setattr(sys, "argv", ["jd", "gallery", *arguments])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


def test_each_method_gets_a_picture_and_the_page_has_them_all(
    gallery: Gallery, tmp_path: Path
) -> None:
    settings = '{"CAGrad": {"c": 0.4}}'
    status, out, err = gallery("--methods", "mean,cagrad", "--settings", settings, "--out", "x")
    assert (status, err) == (0, "")
    assert out.splitlines() == ["x/mean.svg", "x/cagrad.svg", "x/index.html"]
    for name in ("mean", "cagrad"):
        picture = tmp_path.joinpath("x", f"{name}.svg").read_text("utf-8")
        assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314
        assert "prefers-color-scheme: dark" in picture
        assert not [c.stand_in for c in PALETTE.values() if c.stand_in in picture]
    page = tmp_path.joinpath("x", "index.html").read_text("utf-8")
    assert page.count("<svg ") == 2
    assert "c = 0.4" in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--methods", "upgrd"], "no method is called 'upgrd': did you mean 'upgrad'"),
        (["--methods", "autojac"], "'autojac' is an engine, not a method"),
        (["--methods", "constant"], """as in --settings '{"constant": {"weights": [0.7, 0.3]}}'"""),
        (["--methods", ","], "no method was given"),
        (["--settings", "["], "--settings is not JSON"),
        (["--settings", "[1]"], "--settings is no mapping from method to settings"),
        (["--settings", '{"uw": {}}'], "settings are given for 'uw', which is not among"),
        (["--out", "file/x"], "the folder file/x cannot be made"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    gallery: Gallery, tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    (tmp_path / "file").write_text("")
    status, out, err = gallery(*arguments)
    assert (status, out) == (1, "")
    assert sentence in err
    assert "Traceback" not in err
