"""The training loop in a method's docstring runs as it stands, and trains the model."""

from __future__ import annotations

import inspect
import textwrap
from typing import Any

import pytest
import torch
from torch import nn

import jdframework as jd
from jdframework import registry
from jdframework.protocols.names import KINDS, Kind

HEADING = "In a training loop"


def loop_of(kind: Kind, name: str) -> str | None:
    """The block under the heading, if the docstring has one."""
    lines = inspect.getdoc(registry.resolve(kind, name)) or ""
    _, found, rest = lines.partition(HEADING)
    if not found:
        return None
    block = rest.partition("::\n")[2].lstrip("\n").splitlines()
    end = next((i for i, line in enumerate(block) if line and not line.startswith(" ")), None)
    return textwrap.dedent("\n".join(block[:end]))


LOOPS = {
    name: loop
    for kind in KINDS
    for name in jd.available(kind)
    if (loop := loop_of(kind, name)) is not None
}


@pytest.mark.parametrize("name", LOOPS)
def test_the_loop_in_the_docstring_trains_the_model(name: str) -> None:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 4), nn.Linear(4, 2)
    model = nn.Sequential(trunk, heads)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    namespace: dict[str, Any] = {
        "jd": jd,
        "torch": torch,
        "model": model,
        "trunk": trunk,
        "heads": heads,
        "criterion": lambda outputs, targets: (outputs - targets).square().mean(0),
        "loader": [(torch.randn(8, 3), torch.randn(8, 2)) for _ in range(3)],
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.01),
    }
    exec(LOOPS[name], namespace)  # noqa: S102  # the repository's own text
    after = list(model.parameters())
    assert all(tensor.isfinite().all() for tensor in after)
    assert not any(map(torch.equal, before, after))


def test_the_methods_with_a_state_of_their_own_show_one() -> None:
    shown = {"pcd", "excess-mtl", "gradnorm", "imtl", "moco", "db-mtl", "stch-mtl", "mgda"}
    assert shown & set(jd.available()) <= set(LOOPS)
