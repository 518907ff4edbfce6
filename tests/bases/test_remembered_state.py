"""State whose shape the first call tells."""

from __future__ import annotations

import io
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import GramianWeighting, Remembering


class Averaging(Remembering, GramianWeighting):
    """Weights by the running sum of the diagonals."""

    total: Tensor
    memory: ClassVar[tuple[str, ...]] = ("total",)

    def forward(self, gramian: Tensor, /) -> Tensor:
        squares = gramian.diagonal()
        self.total = self.recalled("total", torch.zeros_like(squares)) + squares
        return self.total.clone()


def through_a_file(module: nn.Module) -> dict[str, Tensor]:
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    restored: dict[str, Tensor] = torch.load(file, weights_only=True)
    return restored


def test_a_saved_state_of_any_shape_loads_strictly_into_a_fresh_instance() -> None:
    used, fresh = Averaging(), Averaging()
    used(2 * torch.eye(4, dtype=torch.float64))
    fresh.load_state_dict(through_a_file(used), strict=True)
    assert fresh.total.dtype == torch.float64
    assert fresh(torch.eye(4)).tolist() == [3.0] * 4


def test_it_loads_as_a_part_of_a_larger_module() -> None:
    used, fresh = (nn.ModuleDict({"inner": Averaging()}) for _ in range(2))
    used["inner"](torch.eye(3))
    fresh.load_state_dict(through_a_file(used), strict=True)
    assert torch.equal(fresh["inner"].total, used["inner"].total)


def test_an_unused_state_makes_a_used_instance_new() -> None:
    used = Averaging()
    used(torch.eye(4))
    used.load_state_dict(Averaging().state_dict(), strict=True)
    assert used(torch.eye(2)).tolist() == [1.0, 1.0]


def test_a_loaded_state_shares_nothing() -> None:
    used, fresh = Averaging(), Averaging()
    used(torch.eye(2))
    fresh.load_state_dict(used.state_dict())
    fresh.total.fill_(7.0)
    assert used.total.tolist() == [1.0, 1.0]


def test_a_lacking_state_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Missing key"):
        Averaging().load_state_dict({}, strict=True)


def test_another_number_of_objectives_is_refused_until_reset() -> None:
    method = Averaging()
    method(torch.eye(4))
    with pytest.raises(jd.ConfigError, match=r"total of shape \[4\], but now there are \[3\]"):
        method(torch.eye(3))
    method.reset()
    assert method(torch.eye(3)).tolist() == [1.0] * 3
