"""Adding to ``.grad`` and ``.jac``: all or nothing."""

from __future__ import annotations

import pytest
import torch

from jdframework.autograd import accumulation
from jdframework.autograd.accumulation import add_to_grad, add_to_jac, jac_of


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


def test_nothing_is_written_if_a_later_gradient_has_another_shape() -> None:
    a, b = leaf(1.0), leaf(1.0)
    with pytest.raises(ValueError, match=r"input 1 has shape \[2\], but the input has \[1\]"):
        add_to_grad([a, b], [torch.ones(1), torch.ones(2)])
    assert a.grad is None


@pytest.mark.parametrize("step", ["cast", "clone", "sum", "hook"])
def test_nothing_is_written_if_memory_runs_out_for_a_later_one(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("simulated")

    first, hooked, last = leaf(1.0, 2.0), leaf(3.0, 4.0), leaf(5.0, 6.0)
    first.grad, hooked.grad = torch.ones(2), torch.ones(2)
    hooked.register_hook(fail if step == "hook" else lambda gradient: gradient)
    update = torch.ones(2)
    if step == "cast":
        update = torch.ones(2, dtype=torch.float64)
        monkeypatch.setattr(accumulation, "_cast", lambda g, t: fail() if t is last else g)
    elif step == "clone":
        update = torch.ones(()).expand(2)
        monkeypatch.setattr(accumulation, "_of_its_own", fail)
    elif step == "sum":
        last.grad = torch.ones(2).to_sparse()
        monkeypatch.setattr(accumulation, "_takes_in_place", lambda grad: grad.is_sparse and fail())
    before = last.grad
    with pytest.raises(torch.OutOfMemoryError):
        add_to_grad([first, hooked, last], [torch.ones(2), torch.ones(2), update])
    assert first.grad.tolist() == [1.0, 1.0]
    assert hooked.grad.tolist() == [1.0, 1.0]
    assert last.grad is before


@pytest.mark.parametrize("present", ["dense", "sparse", "expanded", "inference"])
@pytest.mark.parametrize("update", ["dense", "sparse"])
def test_any_kind_of_gradient_is_added_to_any_other(present: str, update: str) -> None:
    ones = torch.ones(3, 2)
    with torch.inference_mode():
        of_inference = torch.ones(3, 2)
    kinds = {
        "dense": ones.clone(),
        "sparse": ones.to_sparse(1),
        "expanded": torch.ones(()).expand(3, 2),
        "inference": of_inference,
    }
    a, b = torch.zeros(3, 2, requires_grad=True), torch.zeros(3, 2, requires_grad=True)
    a.grad, b.grad = torch.ones(3, 2), kinds[present]
    add_to_grad([a, b], [2 * ones, 2 * (ones if update == "dense" else ones.to_sparse(1))])
    for tensor in (a, b):
        assert tensor.grad is not None
        torch.testing.assert_close(tensor.grad.to_dense(), 3 * ones)
    assert (b.grad.layout is torch.sparse_coo) == (present == update == "sparse")


def test_gradients_that_share_memory_have_their_own_afterwards() -> None:
    a, b = leaf(1.0, 2.0), leaf(3.0, 4.0)
    found = torch.autograd.grad((a + b).sum(), [a, b])
    add_to_grad([a, b], found)
    assert a.grad is not None
    a.grad.mul_(3.0)
    assert a.grad.tolist() == [3.0, 3.0]
    assert b.grad is not None
    assert b.grad.tolist() == [1.0, 1.0]


def test_a_tensor_that_is_there_twice_gets_the_sum_and_runs_its_hooks_once() -> None:
    a = leaf(1.0)
    seen: list[float] = []
    a.register_hook(lambda gradient: seen.append(gradient.item()))
    add_to_grad([a, a], [torch.ones(1), torch.ones(1)])
    assert seen == [2.0]
    assert a.grad is not None
    assert a.grad.tolist() == [2.0]


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
