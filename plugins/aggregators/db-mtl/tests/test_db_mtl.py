"""DB-MTL: the gradients of the losses' logarithms, averaged, at one length."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.testing import FAMILIES, AggregatorSuite
from jdframework.testing.weighting import losses_of_rows


class TestDBMTL(AggregatorSuite):
    spec = "db-mtl"
    share: ClassVar[float] = 0.1
    """Of the gradients in the first step's running mean."""

    def optimality(self, jacobian: Tensor, direction: Tensor) -> float:
        """By how much the first step's parts are not as long as the longest, all of them."""
        losses = losses_of_rows(jacobian)
        tracked = self.share * jacobian / (losses + 1e-8)[:, None]
        lengths = tracked.norm(dim=1)
        units = torch.where(lengths[:, None] > 0, tracked / lengths[:, None], 0.0)
        gap = (direction - lengths.max() * units.sum(0)).norm()
        return float(gap / lengths.max()) if lengths.any() else float(gap)


class TestDBMTLWithoutMemory(TestDBMTL):
    spec: ClassVar[Mapping[str, Any]] = {"name": "db-mtl", "beta": 0.0}
    share = 1.0


class TestDBMTLCorrected(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {
        "name": "db-mtl",
        "beta_sigma": 0.5,
        "bias_correction": True,
    }


def rows(seed: int, m: int = 3, n: int = 6) -> Tensor:
    return torch.randn(m, n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_losses(seed: int, m: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 10.0 ** (2 * torch.rand(m, generator=generator, dtype=torch.float64) - 1)


def published(
    jacobians: list[Tensor], losses: list[Tensor], beta: float = 0.9, beta_sigma: float = 0.0
) -> list[Tensor]:
    """Every step's update, by Algorithm 1, from a running mean that starts at zero."""
    y = torch.zeros_like(jacobians[0])
    updates = []
    for k, (jacobian, values) in enumerate(zip(jacobians, losses, strict=True), start=1):
        share = beta / k**beta_sigma
        y = share * y + (1 - share) * jacobian / (values + 1e-8)[:, None]
        norms = y.norm(dim=1)
        updates.append((norms.max() / norms) @ y)
    return updates


@pytest.mark.parametrize("settings", [{}, {"beta": 0.5, "beta_sigma": 0.5}, {"beta": 0.0}])
@pytest.mark.parametrize("m", [1, 2, 5])
def test_many_steps_are_those_of_the_published_algorithm(
    m: int, settings: dict[str, float]
) -> None:
    method = jd.aggregator("db-mtl", **settings)
    jacobians = [rows(step, m) for step in range(20)]
    losses = [some_losses(step, m) for step in range(20)]
    for step, expected in enumerate(published(jacobians, losses, **settings)):
        found = method(jacobians[step], losses=losses[step])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_the_rows_are_the_gradients_of_the_logarithms() -> None:
    parameter = rows(0, 1)[0].requires_grad_()
    losses = (rows(1) @ parameter).square() + 0.1
    logarithms = (losses + 1e-8).log()
    of_losses, of_logarithms = (
        torch.stack([torch.autograd.grad(x, parameter, retain_graph=True)[0] for x in values])
        for values in (losses, logarithms)
    )
    norms = of_logarithms.norm(dim=1)
    expected = (norms.max() / norms) @ of_logarithms
    found = jd.aggregator("db-mtl", beta=0.0)(of_losses, losses=losses)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_every_objective_adds_a_vector_of_the_same_length() -> None:
    jacobian = torch.diag(torch.tensor([1e-6, 1.0, 1e6], dtype=torch.float64))
    losses = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    direction = jd.aggregator("db-mtl", beta=0.0)(jacobian, losses=losses)
    torch.testing.assert_close(direction, torch.full_like(losses, 1e6 / 4), rtol=1e-7, atol=0)


def test_the_unit_of_a_loss_does_not_matter() -> None:
    units = torch.tensor([1.0, 1e3, 1e-3], dtype=torch.float64)
    method, scaled = (jd.aggregator("db-mtl", eps=1e-300) for _ in range(2))
    for step in range(5):
        expected = method(rows(step), losses=some_losses(step))
        found = scaled(units[:, None] * rows(step), losses=units * some_losses(step))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_the_first_update_is_a_tenth_and_the_correction_mends_that() -> None:
    plain, corrected, without = (
        jd.aggregator("db-mtl", **settings)
        for settings in ({}, {"bias_correction": True}, {"beta": 0.0})
    )
    expected = without(rows(0), losses=some_losses(0))
    torch.testing.assert_close(plain(rows(0), losses=some_losses(0)), 0.1 * expected)
    torch.testing.assert_close(corrected(rows(0), losses=some_losses(0)), expected)


@pytest.mark.parametrize("beta_sigma", [0.0, 0.5])
def test_of_gradients_that_stay_the_corrected_mean_is_the_gradient(beta_sigma: float) -> None:
    method = jd.aggregator("db-mtl", bias_correction=True, beta_sigma=beta_sigma)
    expected = jd.aggregator("db-mtl", beta=0.0)(rows(0), losses=some_losses(0))
    for _ in range(10):
        found = method(rows(0), losses=some_losses(0))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_a_zero_gradient_adds_nothing() -> None:
    jacobian = rows(0)
    jacobian[1] = 0.0
    losses = some_losses(0)
    expected = jd.aggregator("db-mtl")(jacobian[[0, 2]], losses=losses[[0, 2]])
    torch.testing.assert_close(jd.aggregator("db-mtl")(jacobian, losses=losses), expected)


def test_a_zero_loss_gives_a_finite_update() -> None:
    jacobian = rows(0)
    jacobian[0] = 0.0
    losses = torch.tensor([0.0, 1.0, 2.0])
    assert jd.aggregator("db-mtl")(jacobian, losses=losses).isfinite().all()
    assert jd.aggregator("db-mtl")(rows(0), losses=losses).isfinite().all()


def test_a_negative_loss_is_refused_by_name_where_others_give_nan() -> None:
    with pytest.raises(ValueError, match=r"db-mtl needs losses of at least zero, but loss 1 is -2"):
        jd.aggregator("db-mtl")(rows(0), losses=torch.tensor([1.0, -2.0, 1.0]))


def test_without_losses_it_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match="db-mtl needs the losses beside the gradients"):
        jd.aggregator("db-mtl")(rows(0))


@pytest.mark.parametrize("bad", ["jacobian", "losses"])
def test_what_is_not_finite_leaves_no_trace(bad: str) -> None:
    method, control = (jd.aggregator("db-mtl") for _ in range(2))
    given = {"jacobian": rows(0), "losses": some_losses(0)}
    given[bad] = given[bad] * torch.nan
    assert method(given["jacobian"], losses=given["losses"]).isnan().all()
    for step in range(3):
        expected = control(rows(step), losses=some_losses(step))
        assert torch.equal(method(rows(step), losses=some_losses(step)), expected)


@pytest.mark.parametrize("family", FAMILIES.values(), ids=str)
def test_many_steps_on_every_family_stay_finite(family: Any) -> None:
    for m in (1, 3, 6):
        method = jd.aggregator("db-mtl")
        for step in range(20):
            assert method(family(m, step), losses=some_losses(step, m)).isfinite().all()


@pytest.mark.parametrize("shape", [(2, 6), (3, 7)])
def test_a_jacobian_of_another_shape_is_refused_until_reset(shape: tuple[int, int]) -> None:
    method = jd.aggregator("db-mtl")
    method(rows(0), losses=some_losses(0))
    with pytest.raises(jd.ConfigError, match=r"tracked of shape \[3, 6\].*call reset\(\)"):
        method(rows(0, *shape), losses=some_losses(0, shape[0]))
    method.reset()
    assert method(rows(0, *shape), losses=some_losses(0, shape[0])).shape == shape[1:]


def new_run() -> tuple[jd.Descent, torch.nn.Module, torch.nn.Module]:
    pytest.importorskip("jd_plugin_autojac")
    torch.manual_seed(0)
    trunk, heads = torch.nn.Linear(3, 4), torch.nn.Linear(4, 2)
    return jd.Descent(trunk, "db-mtl", engine="autojac"), trunk, heads


def trained(run: tuple[jd.Descent, Any, Any], steps: range) -> list[Tensor]:
    descent, trunk, heads = run
    for step in steps:
        inputs = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        features = trunk(inputs)
        descent.backward(heads(features).square().mean(0), features=features)
        with torch.no_grad():
            for parameter in (*trunk.parameters(), *heads.parameters()):
                parameter.sub_(parameter.grad, alpha=0.1)
                parameter.grad = None
    return [p.detach().clone() for p in (*trunk.parameters(), *heads.parameters())]


def test_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    expected = trained(new_run(), range(10))
    run = new_run()
    trained(run, range(5))
    torch.save([part.state_dict() for part in run], tmp_path / "saved.pt")
    run = new_run()
    for part, state in zip(run, torch.load(tmp_path / "saved.pt", weights_only=True), strict=True):
        part.load_state_dict(state)
    assert all(map(torch.equal, trained(run, range(5, 10)), expected))


def test_the_functional_interface_gives_it_the_losses() -> None:
    pytest.importorskip("jd_plugin_autojac")
    parameter = rows(0, 1)[0].requires_grad_()
    losses = (rows(1) @ parameter).square() + 0.1
    jacobian = 2 * (rows(1) @ parameter).detach()[:, None] * rows(1)
    assert jd.backward(losses, "db-mtl") is None
    expected = jd.aggregator("db-mtl")(jacobian, losses=losses)
    torch.testing.assert_close(parameter.grad, expected)


@pytest.mark.parametrize("setting", [{"beta": 1.0}, {"beta_sigma": -0.5}, {"eps": 0.0}])
def test_impossible_settings_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(jd.ConfigError, match=f"db-mtl: {next(iter(setting))} = "):
        jd.aggregator("db-mtl", **setting)
