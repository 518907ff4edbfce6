"""IMTL: imtl-g of the losses that imtl-l scales, and the gradient of the scales."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.linalg import cosines
from jdframework.testing import FAMILIES, WeightingSuite


class TestIMTL(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl", "shape": 3}
    objectives = (3,)

    def optimality(self, gramian: Tensor, weights: Tensor) -> float:
        """The projections on the unit gradients are as equal as their span allows."""
        norms = gramian.diagonal().sqrt()
        unit = cosines(gramian)
        wanted = (norms > 0).double()
        if not weights.any():  # right only where the unit gradients balance out
            return float((wanted @ unit @ wanted).clamp(min=0.0))
        projections = unit @ (weights * norms)
        scale = (projections @ wanted) / projections.square().sum()
        return float((unit @ (scale * projections - wanted)).abs().max())


class TestIMTLOfOneLoss(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl", "shape": ()}
    objectives = (1,)


class TestIMTLOfAMatrix(WeightingSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "imtl", "shape": (2, 3)}
    objectives = (6,)


def normal(seed: int, m: int = 3, n: int = 20) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gramian_of(seed: int, m: int = 3) -> Tensor:
    return normal(seed, m) @ normal(seed, m).T


def at(s: Tensor) -> Any:
    """The method with its trainable values set to ``s``."""
    method = jd.weighting("imtl", shape=tuple(s.shape)).double()
    with torch.no_grad():
        method.s.copy_(s)
    return method


@pytest.mark.parametrize("m", [1, 2, 3, 6])
def test_the_weights_are_those_of_imtl_g_on_the_scaled_losses(m: int) -> None:
    pytest.importorskip("jd_plugin_imtl_g")
    for seed in range(10):
        s = normal(seed + 100, 1, m)[0]
        scaled = s.exp()[:, None] * normal(seed, m)
        expected = s.exp() * jd.weighting("imtl-g")(scaled @ scaled.T)
        found = at(s)(gramian_of(seed, m), losses=torch.ones(m))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=0)


def test_it_starts_as_imtl_g() -> None:
    pytest.importorskip("jd_plugin_imtl_g")
    found = jd.weighting("imtl", shape=3)(gramian_of(0), losses=torch.ones(3))
    torch.testing.assert_close(found, jd.weighting("imtl-g")(gramian_of(0)), rtol=1e-12, atol=0)


def test_the_projections_on_all_gradients_are_equal_whatever_the_scales() -> None:
    for seed in range(10):
        jacobian = normal(seed)
        weights = at(normal(seed + 50, 1, 3)[0])(jacobian @ jacobian.T, losses=torch.ones(3))
        projections = jacobian @ (weights @ jacobian) / jacobian.norm(dim=1)
        torch.testing.assert_close(projections, projections[0].expand(3), rtol=1e-9, atol=0)


def test_parallel_gradients_are_served_where_others_invert_a_singular_matrix() -> None:
    lengths = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64)
    jacobian = lengths[:, None] * normal(0, 1)
    for dtype in (torch.float32, torch.float64):
        rows = jacobian.to(dtype)
        found = at(torch.tensor([0.5, -1.0, 2.0]))(rows @ rows.T, losses=torch.ones(3))
        shares = found.double() * lengths
        torch.testing.assert_close(shares, shares[0].expand(3), rtol=1e-5, atol=0)


def test_the_gradient_of_the_scales_is_that_of_imtl_l() -> None:
    pytest.importorskip("jd_plugin_imtl_l")
    s = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
    losses = torch.tensor([2.0, 0.3, 7.0], dtype=torch.float64)
    scalarizer = jd.scalarizer("imtl-l", shape=3).double()
    with torch.no_grad():
        scalarizer.s.copy_(s)
    scalarizer(losses).backward()
    method = at(s)
    method(gramian_of(0), losses=losses)
    torch.testing.assert_close(method.s.grad, scalarizer.s.grad)
    method(gramian_of(1), losses=losses)
    torch.testing.assert_close(method.s.grad, 2 * scalarizer.s.grad)


def test_frozen_scales_get_no_gradient() -> None:
    method = jd.weighting("imtl", shape=2).requires_grad_(False)
    method(torch.eye(2), losses=torch.ones(2))
    assert method.s.grad is None


def new_run() -> tuple[jd.Descent, torch.nn.Module, torch.optim.Optimizer]:
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    model = torch.nn.Linear(3, 2)
    descent = jd.Descent(model, "imtl", shape=2, engine="autojac")
    parameters = [*model.parameters(), *descent.parameters()]
    return descent, model, torch.optim.Adam(parameters, lr=0.05)


def trained(run: tuple[Any, Any, Any], steps: range) -> list[Tensor]:
    descent, model, optimizer = run
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        losses = torch.tensor([1.0, 50.0]) * (model(inputs) - 1).square().mean(0)
        descent.backward({"a": losses[0], "b": losses[1]})
        optimizer.step()
        optimizer.zero_grad()
    return [p.detach().clone() for p in (*model.parameters(), *descent.parameters())]


def test_training_makes_the_scaled_losses_equally_large() -> None:
    method = jd.weighting("imtl", shape=2)
    losses = torch.tensor([0.1, 20.0])
    optimizer = torch.optim.Adam(method.parameters(), lr=0.05)
    for _ in range(500):
        method(torch.eye(2), losses=losses)
        optimizer.step()
        optimizer.zero_grad()
    torch.testing.assert_close(method.s.detach().exp() * losses, torch.ones(2), atol=1e-3, rtol=0)


def test_a_plain_loop_trains_the_model_and_the_scales() -> None:
    before = trained(new_run(), range(0))
    after = trained(new_run(), range(10))
    assert not any(torch.equal(*pair) for pair in zip(before, after, strict=True))


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    expected = trained(new_run(), range(20))
    run = new_run()
    trained(run, range(10))
    torch.save([part.state_dict() for part in run], tmp_path / "saved.pt")
    run = new_run()
    for part, state in zip(run, torch.load(tmp_path / "saved.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert all(map(torch.equal, trained(run, range(10, 20)), expected))


def test_heads_past_the_features_get_their_plain_gradient() -> None:
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    descent = jd.Descent(trunk, "imtl", shape=2, engine="autojac")
    with torch.no_grad():
        next(descent.parameters()).copy_(torch.tensor([1.0, -1.0]))
    features = trunk(torch.ones(8, 3))
    losses = heads(features).square().mean(0)
    expected = torch.autograd.grad(losses.sum(), heads.weight, retain_graph=True)[0]
    descent.backward(losses, features=features)
    torch.testing.assert_close(heads.weight.grad, expected)


def test_opposite_gradients_get_zero_weights() -> None:
    jacobian = torch.cat([normal(0, 1), -2 * normal(0, 1)])
    method = jd.weighting("imtl", shape=2)
    assert method(jacobian @ jacobian.T, losses=torch.ones(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_every_family_gets_finite_weights_at_any_scale(family: Any) -> None:
    for m in (1, 2, 5):
        jacobian = family(m)
        method = at(torch.linspace(-5, 5, m))
        assert method(jacobian @ jacobian.T, losses=torch.ones(m)).isfinite().all()


def test_another_number_of_objectives_is_refused() -> None:
    method = jd.weighting("imtl", shape=3)
    with pytest.raises(jd.ConfigError, match=r"losses of shape \[3\], but there are 2 objectives"):
        method(torch.eye(2), losses=torch.ones(2))


def test_without_losses_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="imtl needs the losses beside the gradients"):
        jd.weighting("imtl", shape=2)(torch.eye(2))


def test_reset_puts_s_back_to_zero_under_the_optimizers_eyes() -> None:
    method = jd.weighting("imtl", shape=2)
    parameter = method.s
    with torch.no_grad():
        parameter.fill_(3.0)
    method.reset()
    assert method.s is parameter
    assert not parameter.any()


@pytest.mark.parametrize("shape", [0, (2, 0), "three"])
def test_an_impossible_shape_is_refused(shape: object) -> None:
    with pytest.raises(jd.ConfigError, match="imtl: shape"):
        jd.weighting("imtl", shape=shape)
