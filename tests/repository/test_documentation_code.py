"""Every Python block that a reader may copy runs as it stands, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plugin_folder import APPLICATIONS
from printed import BLOCK, PRINTED, outputs, with_outputs

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
GETTING_STARTED = ROOT / "docs" / "getting-started.md"
PLUGIN_READMES = [
    page for page in sorted(ROOT.glob("plugins/*/*/README.md")) if page.parts[-3] != APPLICATIONS
]
DECIMAL = re.compile(r"-?\d+\.\d*(?:e[+-]?\d+)?")


def run(page: Path, namespace: dict[str, Any]) -> int:
    """Executes the page's blocks in order, and compares what they print with what is shown."""
    blocks = 0
    for printed, shown in outputs(page.read_text("utf-8"), str(page), namespace):
        blocks += 1
        if shown:
            check_printed(printed, shown[1])
    return blocks


def check_printed(printed: str, shown: str) -> None:
    """The same words, and the same numbers up to what another processor rounds otherwise."""
    assert DECIMAL.sub("#", printed) == DECIMAL.sub("#", shown), printed
    found, expected = (list(map(float, DECIMAL.findall(text))) for text in (printed, shown))
    assert found == pytest.approx(expected, rel=0.02, abs=0.03), printed


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in sorted(ROOT.glob("examples/plugins/*")):
        monkeypatch.syspath_prepend(example)


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page != GETTING_STARTED],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path) -> None:
    run(page, {"__name__": "__main__"})


@pytest.mark.parametrize("page", PLUGIN_READMES, ids=lambda page: page.parent.name)
def test_the_lines_in_a_plugins_readme_run(page: Path) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batches = ("losses", "other_losses", "second_losses", "third_losses", "new_losses")
    namespace = {
        "__name__": "__main__",
        "model": model,
        **{name: model(torch.randn(8, 3)).square().mean(0) for name in batches},
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    assert run(page, namespace) == 1


@pytest.mark.slow
def test_getting_started_works_for_a_new_user_in_an_empty_directory(tmp_path: Path) -> None:
    """A process of its own, which has nothing but the page's text."""
    text = GETTING_STARTED.read_text("utf-8")
    program = "\n".join(block[1] for block in BLOCK.finditer(text))
    folder = tmp_path / "empty"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},  # steps this small gain nothing from two
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    check_printed(done.stdout, "".join(shown[1] for shown in PRINTED.finditer(text)))
    assert not list(folder.iterdir())


def test_the_front_page_and_getting_started_show_code() -> None:
    for page in (ROOT / "README.md", GETTING_STARTED):
        assert BLOCK.search(page.read_text("utf-8")), page


def test_a_broken_block_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nraise KeyError('x')\n```\n", "utf-8")
    with pytest.raises(KeyError):
        run(page, {})


def test_what_is_shown_but_not_printed_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    shown = '```python\nprint("conflict", 0.5)\n```\n\n```text title="Prints"\nconflict {}\n```\n'
    page.write_text(shown.format("0.51"), "utf-8")
    run(page, {})
    for wrong in ("0.6", "0.5 0.5", "1", "none"):
        page.write_text(shown.format(wrong), "utf-8")
        with pytest.raises(AssertionError):
            run(page, {})


def test_the_tool_writes_what_is_printed() -> None:
    page = '```python\nprint("a", 2)\n```\n\n```text title="Prints"\nold\n```\n\nText.\n'
    assert with_outputs(page, "page.md") == page.replace("old", "a 2")


def test_every_printed_text_follows_the_block_that_prints_it() -> None:
    """Elsewhere nobody would compare it."""
    for page in PAGES:
        text = page.read_text("utf-8")
        compared = [PRINTED.match(text, block.end()) for block in BLOCK.finditer(text)]
        assert len(list(PRINTED.finditer(text))) == sum(map(bool, compared)), page
