"""Aggregation on the representation: one backward pass of the trunk, whatever the method."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.testing import derived_suite

F64 = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


class Counted(torch.autograd.Function):
    """Counts the backward passes through it."""

    passes = 0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        Counted.passes += 1
        return grads[0]


class Trunk(nn.Module):
    """Two layers, whose backward passes are counted."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 5), nn.Linear(5, width)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.second(Counted.apply(self.first(x).tanh()))
        return features


def made(tasks: int = 3) -> tuple[Trunk, nn.ModuleList, Tensor]:
    heads = nn.ModuleList([nn.Linear(4, 1) for _ in range(tasks)])
    return Trunk().to(F64), heads.to(F64), torch.randn(7, 3, dtype=F64)


def losses_of(heads: nn.ModuleList, features: Tensor) -> list[Tensor]:
    return [(head(features) - task).square().mean() for task, head in enumerate(heads)]


def rows_at(losses: list[Tensor], features: list[Tensor]) -> Tensor:
    """``dLᵢ/dz`` as one matrix, by autograd alone."""
    rows = [torch.autograd.grad(loss, features, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])


def settings(name: str, m: int) -> dict[str, Any]:
    found = dict(derived_suite(jd.describe(name).kinds[0], name).config)
    known = {"weights": [1.0 + i for i in range(m)]}
    return found | {field: value for field, value in known.items() if field in found}


def every_method() -> list[str]:
    names = {name for kind in ("weighting", "aggregator") for name in jd.available(kind)}
    unserved = {name for name in names if "cross-gramian" in jd.describe(name).needs} | {"grouped"}
    return sorted(names - unserved)


@pytest.mark.parametrize("name", every_method())
def test_every_method_works_on_the_features(name: str) -> None:
    trunk, heads, x = made()
    if "seed" in jd.describe(name).config_schema.get("properties", {}):
        config = settings(name, 3) | {"seed": 0}
    else:
        config = settings(name, 3)
    descent = jd.Descent(trunk, name, on="features", **config)
    features = trunk(x)
    losses = losses_of(heads, features)
    rows = rows_at(losses, [features])
    kind = "aggregator" if "aggregator" in jd.describe(name).kinds else "weighting"
    control = jd.aggregator(getattr(jd, kind)(name, **config))
    extra = {"losses": torch.stack(losses).detach()} if "losses" in control.needs else {}
    wanted = control(rows, **extra).reshape(features.shape)
    expected = torch.autograd.grad(features, list(trunk.parameters()), wanted, retain_graph=True)
    Counted.passes = 0
    step = descent.backward(losses, features=features)
    assert Counted.passes == 1
    for parameter, gradient in zip(trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    torch.testing.assert_close(step.gramian, rows @ rows.T)


def test_on_parameters_the_trunk_takes_a_pass_for_each_objective() -> None:
    trunk, heads, x = made()
    features = trunk(x)
    Counted.passes = 0
    jd.Descent(trunk, "mgda", engine={"name": "autojac", "parallel_chunk_size": 1}).backward(
        losses_of(heads, features), features=features
    )
    assert Counted.passes == 3


def test_heads_get_their_plain_gradient() -> None:
    trunk, heads, x = made()
    features = trunk(x)
    jd.Descent(trunk, "mgda", on="features").backward(losses_of(heads, features), features=features)
    expected = torch.autograd.grad(sum(losses_of(heads, trunk(x))), list(heads.parameters()))
    for parameter, gradient in zip(heads.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_several_features_count_as_one_long_row() -> None:
    trunk, heads, x = made()
    features = [trunk(x), trunk(x[:4])]
    losses = [
        head(features[0]).square().mean() + (i * head(features[1])).mean()
        for i, head in enumerate(heads)
    ]
    rows = rows_at(losses, features)
    step = jd.Descent(trunk, "mgda", on="features").backward(losses, features=features)
    torch.testing.assert_close(step.gramian, rows @ rows.T)
    assert step.weights is not None
    wanted = (step.weights @ rows).split([f.numel() for f in features])
    again = [trunk(x), trunk(x[:4])]
    expected = torch.autograd.grad(
        again,
        list(trunk.parameters()),
        [w.reshape(f.shape) for w, f in zip(wanted, again, strict=True)],
    )
    for parameter, gradient in zip(trunk.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_tensor_of_losses_has_one_objective_per_entry() -> None:
    trunk, heads, x = made()
    features = trunk(x)
    losses = torch.stack(losses_of(heads, features))
    rows = rows_at(list(losses), [features])
    step = jd.Descent(trunk, "upgrad", on="features").backward(losses, features=features)
    torch.testing.assert_close(step.gramian, rows @ rows.T)
    assert step.names == ("0", "1", "2")


def test_a_name_that_is_also_a_scalarizer_runs_as_the_weighting() -> None:
    trunk, heads, x = made()
    descent = jd.Descent(trunk, "mean", on="features")
    assert descent.method.kind == "weighting"
    features = trunk(x)
    step = descent.backward(losses_of(heads, features), features=features)
    assert step.gramian is not None
    assert step.engine == "autograd"


def test_training_lowers_the_losses() -> None:
    trunk, heads, x = made()
    descent = jd.Descent(trunk, "mgda", on="features")
    optimizer = torch.optim.SGD([*trunk.parameters(), *heads.parameters()], lr=0.05)
    before = torch.stack(losses_of(heads, trunk(x))).sum()
    for _ in range(50):
        features = trunk(x)
        descent.backward(losses_of(heads, features), features=features)
        optimizer.step()
        optimizer.zero_grad()
    assert torch.stack(losses_of(heads, trunk(x))).sum() < 0.5 * before


def test_the_graph_is_kept_only_when_asked() -> None:
    trunk, heads, x = made()
    descent = jd.Descent(trunk, "mgda", on="features")
    features = trunk(x)
    losses = losses_of(heads, features)
    descent.backward(losses, features=features, retain_graph=True)
    once = trunk.first.weight.grad.clone()
    descent.backward(losses, features=features)
    torch.testing.assert_close(trunk.first.weight.grad, 2 * once)
    with pytest.raises(RuntimeError, match="second time"):
        descent.backward(losses, features=features)
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(features.sum(), trunk.first.weight)


def test_features_that_an_objective_does_not_use_are_fine() -> None:
    trunk, heads, x = made(tasks=2)
    features = [trunk(x), trunk(2 * x)]
    losses = [head(f).square().mean() for head, f in zip(heads, features, strict=True)]
    step = jd.Descent(trunk, "upgrad", on="features").backward(losses, features=features)
    assert step.gramian is not None
    assert step.gramian[0, 1] == 0.0


def test_a_trunk_whose_gradient_alone_is_not_finite_is_refused_and_grad_is_untouched() -> None:
    trunk, head = nn.Linear(2, 2), nn.Linear(2, 2)
    trunk.weight.grad = torch.ones(2, 2)

    def losses_and_features() -> tuple[Tensor, Tensor]:
        features = (0 * trunk(torch.ones(1, 2))).sqrt()
        return head(features).square().mean(0), features

    losses, features = losses_and_features()
    with pytest.raises(jd.NonFiniteError, match="step 0: all losses are finite, but the gradient"):
        jd.Descent(trunk, "mgda", on="features").backward(losses, features=features)
    assert torch.equal(trunk.weight.grad, torch.ones(2, 2))
    assert head.weight.grad is None
    losses, features = losses_and_features()
    descent = jd.Descent(trunk, "mgda", on="features", on_nonfinite="skip")
    assert descent.backward(losses, features=features).skipped
    assert torch.equal(trunk.weight.grad, torch.ones(2, 2))


def test_tied_weights_past_the_features_are_refused() -> None:
    trunk = nn.Linear(3, 3)
    features = trunk(torch.randn(4, 3))
    losses = nn.functional.linear(features, trunk.weight).square().mean(0)
    with pytest.raises(jd.UnsupportedModelError, match=r"past the features, too \(tied weights\)"):
        jd.Descent(trunk, "mgda", on="features").backward(losses, features=features)


def test_a_feature_that_was_computed_from_another_is_refused() -> None:
    trunk, heads, x = made()
    low = trunk.first(x)
    high = trunk.second(low)
    with pytest.raises(jd.UnsupportedModelError, match="a feature was computed from another"):
        jd.Descent(trunk, "mgda", on="features").backward(
            losses_of(heads, high), features=[low, high]
        )


def test_a_wrapped_model_is_refused_by_name() -> None:
    class DistributedDataParallel(nn.Module):
        pass

    with pytest.raises(jd.UnsupportedModelError, match="wrapped by DistributedDataParallel"):
        jd.Descent(DistributedDataParallel(), "mgda", on="features")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "mgda", "on": "feature"}, "on = 'feature' was given, but it is one of"),
        ({"method": "uw", "shape": 2}, "uw is a scalarizer, which looks at no gradients"),
        ({"method": "modo"}, "modo compares batches, whose features have nothing in common"),
        ({"method": "grouped", "inner": "mgda"}, "grouped divides parameters into groups"),
        ({"method": "mgda", "engine": "autojac"}, "no engine is needed"),
    ],
)
def test_what_cannot_work_on_features_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(jd.ConfigError, match=message):
        jd.Descent(nn.Linear(2, 2), **({"on": "features"} | settings))


def test_features_that_are_missing_or_have_no_graph_are_refused() -> None:
    trunk, heads, x = made()
    descent = jd.Descent(trunk, "mgda", on="features")
    losses = losses_of(heads, trunk(x))
    with pytest.raises(ValueError, match=r"on='features' needs the shared representation"):
        descent.backward(losses)
    with pytest.raises(ValueError, match=r"features is empty: give the shared representation"):
        descent.backward(losses, features=[])
    with pytest.raises(ValueError, match=r"features of shape \[7, 4\] does not require grad"):
        descent.backward(losses, features=trunk(x).detach())
    assert descent.engine is None
