"""Every Python block that a reader may copy runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PLUGIN_READMES = sorted(ROOT.glob("plugins/*/*/README.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(page: Path, namespace: dict[str, Any]) -> int:
    """Executes the page's blocks in order, each at its own line numbers."""
    text = page.read_text("utf-8")
    blocks = list(BLOCK.finditer(text))
    for block in blocks:
        lines_before = text[: block.start(1)].count("\n")
        code = compile("\n" * lines_before + block[1], str(page), "exec")
        exec(code, namespace)  # noqa: S102  # the repository's own text
    return len(blocks)


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for example in sorted(ROOT.glob("examples/plugins/*")):
        monkeypatch.syspath_prepend(example)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
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


def test_the_front_page_and_the_quick_start_show_code() -> None:
    for name in ("README.md", "docs/quickstart.md"):
        assert BLOCK.search((ROOT / name).read_text("utf-8")), name


def test_a_broken_block_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Title\n\n```python\nraise KeyError('x')\n```\n", "utf-8")
    with pytest.raises(KeyError):
        run(page, {})
