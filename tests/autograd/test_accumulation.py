"""Adding to ``.grad`` and ``.jac``: all or nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jdframework.autograd.accumulation import add_to_grad, add_to_jac, jac_of
from jdframework.errors import UnsupportedModelError


def leaf(*values: float, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype, requires_grad=True)


def test_a_gradient_is_set_and_then_added_to() -> None:
    a = leaf(1.0, 2.0)
    add_to_grad([a], [torch.ones(2)])
    add_to_grad([a], [torch.ones(2)])
    assert a.grad is not None
    assert a.grad.tolist() == [2.0, 2.0]


def test_none_leaves_the_field_as_it_is() -> None:
    a = leaf(1.0)
    add_to_grad([a], [None])
    assert a.grad is None


def test_the_field_has_the_tensors_dtype() -> None:
    a = leaf(1.0, dtype=torch.bfloat16)
    add_to_grad([a], [torch.ones(1, dtype=torch.float64)])
    assert a.grad is not None
    assert a.grad.dtype == torch.bfloat16


def test_nothing_is_written_if_one_tensor_cannot_have_the_field() -> None:
    a, inner = leaf(1.0), leaf(1.0) * 2
    with pytest.raises(ValueError, match=r"input 1 of shape \[1\] cannot have a \.grad"):
        add_to_grad([a, inner], [torch.ones(1), torch.ones(1)])
    with pytest.raises(ValueError, match=r"input 1 of shape \[1\] cannot have a \.jac"):
        add_to_jac([a, inner], [torch.ones(3, 1), torch.ones(3, 1)])
    assert a.grad is None
    assert jac_of(a) is None


def test_nothing_is_written_if_one_tensor_waits_for_autograds_own_accumulation() -> None:
    a, b = leaf(1.0), leaf(1.0)
    b.register_post_accumulate_grad_hook(lambda tensor: None)
    with pytest.raises(UnsupportedModelError, match="register_post_accumulate_grad_hook"):
        add_to_grad([a, b], [torch.ones(1), torch.ones(1)])
    assert a.grad is None


def test_nothing_is_written_if_memory_runs_out_for_a_later_one() -> None:
    class NoMemory(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None):
            if func is torch.Tensor.to:
                raise torch.OutOfMemoryError("simulated")
            return super().__torch_function__(func, types, args, kwargs or {})

    a, b = leaf(1.0), leaf(1.0)
    with pytest.raises(torch.OutOfMemoryError):
        add_to_grad([a, b], [torch.ones(1), torch.ones(1).as_subclass(NoMemory)])
    assert a.grad is None


def test_jacobians_do_not_share_memory_with_what_was_added() -> None:
    a = leaf(1.0)
    given = torch.ones(2, 1)
    add_to_jac([a], [given])
    add_to_jac([a], [torch.ones(2, 1)])
    assert given.tolist() == [[1.0], [1.0]]
    assert a.jac.tolist() == [[2.0], [2.0]]


def test_a_field_set_to_none_counts_as_missing() -> None:
    a = leaf(1.0)
    a.jac = None
    add_to_jac([a], [torch.ones(2, 1)])
    assert a.jac.tolist() == [[1.0], [1.0]]
