"""The ledger: what other implementations get wrong, each turned into a promise that is kept here.

``E1`` to ``E22`` are the entries of the project's list of errors that were measured, or read, in
other libraries. Where torchjd is one of them, the difference is shown beside the promise.
"""

from __future__ import annotations

import itertools
import math
import warnings
from typing import Any

import pytest
import torch
import torchjd.aggregation as peer
from torch import Tensor, nn

import jdframework as jd
from jdframework.linalg import gramian as gramian_of
from jdframework.linalg import min_norm_weights

STATEFUL = [
    (kind, method.name)
    for method in (jd.describe(name) for name in jd.available())
    for kind in method.kinds
    if kind in ("weighting", "aggregator", "scalarizer") and jd.describe(method.name, kind).stateful
]


def jacobian(seed: int, m: int, n: int = 50, **options: Any) -> Tensor:
    """Independent normal entries."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(m, n, generator=generator, dtype=torch.float64).to(**options)


def conflicts(rows: Tensor, update: Tensor) -> bool:
    """Whether the update points against a row, by more than rounding."""
    products = (rows @ update) / rows.norm(dim=1) / update.norm()
    return bool((products < -1e-6).any())


@pytest.mark.parametrize("name", ["upgrad", "dual-proj"])
@pytest.mark.parametrize("norm_ratio", [1.0, 30.0, 1e3, 1e6])
def test_e01_a_row_of_any_norm_keeps_its_guarantee(name: str, norm_ratio: float) -> None:
    """Torchjd regularises relative to the trace, and loses small rows from a ratio of 10 on."""
    method = jd.aggregator(name)
    for seed in range(50):
        rows = jacobian(seed, 4)
        rows[0] /= rows[0].norm() * norm_ratio / rows[1].norm()
        rows[0] -= rows[1:].sum(0) / norm_ratio  # a small task that conflicts
        assert not conflicts(rows, method(rows)), seed


def test_e01_the_peer_breaks_it() -> None:
    found = 0
    for seed in range(50):
        rows = jacobian(seed, 4)
        rows[0] = (rows[0] / rows[0].norm() - rows[1:].sum(0)) / 1e3
        found += conflicts(rows, peer.UPGrad()(rows))
    assert found > 25


@pytest.mark.parametrize("name", ["upgrad", "dual-proj", "cagrad", "mgda", "aligned-mtl"])
def test_e02_small_gradients_change_no_method(name: str) -> None:
    """Torchjd's UPGrad becomes the mean below a norm of 0.01, and its CAGrad becomes zero."""
    settings = {"c": 0.5} if name == "cagrad" else {}
    method = jd.aggregator(name, **settings)
    rows = jacobian(0, 3)
    rows[0] -= 2 * rows[1:].sum(0)  # the mean harms an objective, so that no method may answer it
    assert conflicts(rows, rows.mean(0))
    for scale in (1e-3, 1e-8, 1e-12):
        torch.testing.assert_close(method(scale * rows) / scale, method(rows))


def test_e02_the_peers_freeze_or_become_the_mean() -> None:
    rows = 1e-8 * jacobian(0, 3)
    assert peer.CAGrad(c=0.5)(rows).abs().max() == 0.0
    torch.testing.assert_close(peer.UPGrad()(rows), rows.mean(0))


@pytest.mark.parametrize("m", [3, 5, 10, 20])
def test_e03_mgda_reaches_the_optimum(m: int) -> None:
    """Frank-Wolfe stops up to 9 % above it."""
    for seed in range(20):
        rows = jacobian(seed, m)
        gramian = rows @ rows.T
        weights = jd.weighting("mgda")(gramian)
        value = weights @ gramian @ weights
        gap = value - (gramian @ weights).min()
        assert gap <= 1e-9 * value
        theirs = peer.MGDA()(rows)
        assert value <= theirs @ theirs * (1 + 1e-12)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e9])
def test_e04_mgda_reaches_corners_and_large_costs(scale: float) -> None:
    """The official solver keeps every weight within [0.001, 0.999], and fails from 1e8 on."""
    rows = scale * torch.tensor([[1.0, 0.0], [5.0, 1.0]], dtype=torch.float64)
    assert jd.weighting("mgda")(rows @ rows.T).tolist() == [1.0, 0.0]
    # All equal: no pair is better than another, on which the official loop never ends.
    same = scale * torch.ones(4, 3, dtype=torch.float64)
    weights = jd.weighting("mgda")(same @ same.T)
    torch.testing.assert_close(weights @ same, same[0])


def test_e05_cagrad_leaves_no_objective_out() -> None:
    """The fast variant never draws the last one."""
    weighting = jd.weighting("cagrad", c=0.9)
    for position in range(4):
        rows = torch.eye(4, dtype=torch.float64) + 1.0
        rows[position] = -rows[position]
        weights = weighting(rows @ rows.T)
        assert weights.argmax() == position


@pytest.mark.parametrize("m", [1, 2, 5, 20])
@pytest.mark.parametrize("norm", [1e-4, 1.0, 1e6])
def test_e06_nash_mtl_solves_its_equations(m: int, norm: float) -> None:
    """The peer's median residual is 28 at m = 20; it refuses one objective, and a zero matrix."""
    rows = norm * jacobian(m, m)
    weights = jd.weighting("nash-mtl", max_norm=0.0)(rows @ rows.T)
    assert (weights * (rows @ rows.T @ weights) - 1).abs().max() <= 1e-8
    assert torch.isfinite(jd.weighting("nash-mtl")(torch.zeros(m, m))).all()


@pytest.mark.parametrize("alpha", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("norm", [1e-6, 7e-4, 2e-2, 1e3])
def test_e07_fairgrad_solves_its_equations_for_small_gradients(alpha: float, norm: float) -> None:
    """The peer's are off by 80 % for gradients of norm 7e-4."""
    rows = norm * jacobian(1, 5)
    gramian = rows @ rows.T
    weights = jd.weighting("fairgrad", alpha=alpha)(gramian)
    assert (gramian @ weights * weights ** (1 / alpha) - 1).abs().max() <= 1e-8


@pytest.mark.parametrize("name", ["mgda", "upgrad", "cagrad", "imtl-g", "config", "nash-mtl"])
def test_e08_half_precision_neither_overflows_nor_raises(name: str) -> None:
    """In float16 the Gramian of gradients of norm 600 overflows; eight peers raise in bfloat16."""
    settings = {"c": 0.5} if name == "cagrad" else {}
    method = jd.aggregator(name, **settings)
    rows = jacobian(2, 3)
    rows = rows / rows.norm(dim=1, keepdim=True) * 600
    for dtype in (torch.float16, torch.bfloat16):
        found = method(rows.to(dtype))
        assert found.dtype == dtype
        expected = method(rows.to(dtype).double())
        largest = float(expected.abs().max())  # the update of nash-mtl has the length one
        torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.01 * largest)


def test_e09_pcgrad_shuffles_and_projects_the_projected() -> None:
    """The official code throws the shuffle away, and projects the first gradient each time."""
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [-0.5, -1.0]], dtype=torch.float64)
    possible = [
        sum(_projected(rows, i, order) for i, order in enumerate(orders))
        for orders in itertools.product(*(_orders(i) for i in range(3)))
    ]
    found = [jd.aggregator("pcgrad", seed=seed)(rows) for seed in range(40)]
    assert all(any(torch.allclose(update, p) for p in possible) for update in found)
    assert len({tuple(update.round(decimals=6).tolist()) for update in found}) > 1


def _orders(row: int) -> list[tuple[int, ...]]:
    return list(itertools.permutations([j for j in range(3) if j != row]))


def _projected(rows: Tensor, i: int, order: tuple[int, ...]) -> Tensor:
    working = rows[i].clone()
    for j in order:
        product = working @ rows[j]
        if product < 0:
            working = working - product / (rows[j] @ rows[j]) * rows[j]
    return working


def test_e10_gradvac_survives_opposite_gradients_in_float32() -> None:
    """Without a clamp the root of 1 - cos² is that of a negative number."""
    for seed in range(200):
        row = jacobian(seed, 1, dtype=torch.float32)[0]
        rows = torch.stack([row, -3 * row, 0.1 * row])
        assert torch.isfinite(jd.aggregator("gradvac", seed=0)(rows)).all()


@pytest.mark.parametrize("name", ["aligned-mtl", "config", "imtl-g"])
def test_e11_spectral_methods_use_what_this_torch_has(name: str) -> None:
    """torch.symeig is gone, and warnings are errors here."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.isfinite(jd.weighting(name)(torch.eye(3))).all()


@pytest.mark.parametrize(("kind", "name"), STATEFUL)
def test_e12_all_state_loads_strictly_into_a_fresh_instance(kind: str, name: str) -> None:
    """Torchjd's either refuse their own state or leave it out."""
    from jdframework.testing import derived_suite

    suite = derived_suite(kind, name)()  # type: ignore[arg-type]  # from the list of kinds
    suite._adopt_claims()
    method: Any = suite.make()
    steps = len(suite.advanced(method))  # type: ignore[attr-defined]
    fresh = suite.make()
    fresh.load_state_dict(method.state_dict(), strict=True)
    assert fresh.state_dict().keys() == method.state_dict().keys()
    # What is left out of the state would be missing from now on.
    later: list[Tensor] = []
    for resumed in (method, fresh):
        torch.manual_seed(0)
        later.append(suite.advanced(resumed, steps, 2 * steps))  # type: ignore[attr-defined]
    assert torch.equal(*later)


def test_e12_covers_the_methods_of_which_peers_lose_the_state() -> None:
    named = {name for _, name in STATEFUL}
    lost = {"gradvac", "excess-mtl", "modo", "sdmgrad", "cr-mogm", "pcd", "nash-mtl", "dwa", "famo"}
    assert lost <= named


def test_e13_graddrop_scales_no_coordinate() -> None:
    """Lingvo multiplies by the new norm over the old one, where it means the inverse."""
    rows = torch.tensor([[1.0, 2.0], [3.0, -1.0]], dtype=torch.float64)
    for seed in range(20):
        first, second = jd.aggregator("graddrop", seed=seed)(rows).tolist()
        assert first == 4.0  # all signs agree: nothing is dropped, and nothing is scaled
        assert second in (2.0, -1.0)


def test_e14_graddrop_draws_for_each_coordinate_and_leaks_what_it_is_told() -> None:
    """Samsung's has one probability for all coordinates, and leaks the share that should stay."""
    rows = torch.tensor([[1.0] * 64, [-1.0] * 64], dtype=torch.float64)
    rows[1, 32:] = 1.0  # nothing is dropped where all signs agree, whatever the others do
    found = jd.aggregator("graddrop", seed=0)(rows)
    assert set(found[:32].tolist()) == {1.0, -1.0}
    assert set(found[32:].tolist()) == {2.0}
    leaking = jd.aggregator("graddrop", seed=0, leak=[1.0, 1.0])(rows)
    torch.testing.assert_close(leaking, rows.sum(0))


def test_e15_krums_score_is_that_of_the_paper() -> None:
    """The m - f - 2 nearest, squared distances: three libraries have three other scores."""
    for seed in range(100):
        rows = jacobian(seed, 7, 5)
        distances = torch.cdist(rows, rows).square()
        nearest = distances.sort(dim=1).values[:, 1 : 7 - 1 - 2 + 1]
        weights = jd.weighting("krum", n_byzantine=1)(rows @ rows.T)
        assert weights.argmax() == nearest.sum(1).argmin()


def test_e16_trimmed_mean_is_exact_beside_huge_outliers() -> None:
    """Blades adds them and takes them off again."""
    rows = torch.tensor([[1.0], [2.0], [3.0], [3e9], [math.inf], [-math.inf]])
    assert jd.aggregator("trimmed-mean", trim_number=2)(rows).tolist() == [2.5]


def test_e17_excess_mtl_starts_from_equal_weights() -> None:
    """Torchjd's first call makes the weights one-hot, for ever."""
    rows = jacobian(0, 3, 10_000)
    rows = rows / rows.norm(dim=1, keepdim=True)
    rows[0] *= 1.1
    weighting = jd.weighting("excess-mtl")
    torch.testing.assert_close(weighting(rows), torch.full((3,), 1 / 3, dtype=torch.float64))
    assert peer.ExcessMTLWeighting()(rows).max() > 0.99


def test_e18_sdmgrad_uses_three_batches() -> None:
    """The official code has three names for one batch."""
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    # Small gradients, so that no weight comes to lie at the edge of the simplex.
    batches = [0.1 * jacobian(seed, 8, 4) for seed in range(4)]

    def step(*chosen: Tensor) -> Tensor:
        model.zero_grad()
        first, second, third = (model(x).square().mean(0) for x in chosen)
        jd.Descent(model, "sdmgrad").backward(first, independent=(second, third))
        assert model.weight.grad is not None
        return model.weight.grad.clone()

    given = step(*batches[:3])
    for changed in range(3):
        others = batches[:3]
        others[changed] = batches[3]
        assert not torch.equal(step(*others), given), f"batch {changed} was not used"


def test_e19_the_geometric_mean_has_a_gradient_at_zero_and_does_not_underflow() -> None:
    """Torchjd's gradient is NaN beside a zero loss; LibMTL's product of 40 small losses is zero."""
    losses = torch.tensor([0.0, 1.0], requires_grad=True)
    jd.scalarizer("geometric-mean")(losses).backward()
    assert losses.grad is not None
    assert torch.isfinite(losses.grad).all()
    small = torch.full((40,), 1e-2)
    assert float(jd.scalarizer("geometric-mean")(small)) == pytest.approx(1e-2)


def test_e20_the_reference_point_is_used() -> None:
    """Libmoon's scalarizations leave out the shift z, and the factor in the gradient."""
    losses = torch.tensor([1.0, 2.0], dtype=torch.float64)
    shift = [0.5, 1.0]
    for name, settings in (("stch", {"mu": 0.1}), ("pbi", {"theta": 5.0, "weights": [0.5, 0.5]})):
        moved = jd.scalarizer(name, **settings, reference=shift)(losses + torch.tensor(shift))
        torch.testing.assert_close(moved, jd.scalarizer(name, **settings)(losses))


def test_e20_a_weight_counts_in_the_value_and_in_the_gradient() -> None:
    losses = torch.tensor([1.0, 1.0], dtype=torch.float64, requires_grad=True)
    value = jd.scalarizer("stch", mu=1e-3, weights=[10.0, 1.0])(losses)
    value.backward()
    assert losses.grad is not None
    assert value.item() == pytest.approx(10.0)
    assert losses.grad.tolist() == pytest.approx([10.0, 0.0])


def test_e21_famo_clips_nothing_of_the_users() -> None:
    """The official framework clips the gradients of the step before."""
    model = nn.Linear(3, 2)
    descent = jd.Descent(model, "famo", shape=2)
    earlier = torch.full_like(model.weight, 1e3)
    model.weight.grad = earlier.clone()
    losses = (1e3 * model(torch.ones(3))).square()
    step = descent.backward(losses)
    assert step.weights is not None
    assert model.weight.grad is not None
    expected = torch.autograd.grad(
        (1e3 * model(torch.ones(3))).square() @ step.weights, model.weight
    )
    torch.testing.assert_close(model.weight.grad, earlier + expected[0])
    descent.after_update(losses.detach())
    torch.testing.assert_close(model.weight.grad, earlier + expected[0])


def test_e22_moco_projects_and_so_reaches_the_min_norm_weights() -> None:
    """LibMTL takes a softmax in place of the projection, and stays near equal weights."""
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    aggregator: Any = jd.aggregator("moco", beta=1.0, rho=0.0)
    for _ in range(500):
        direction = aggregator(rows)
    weights = min_norm_weights(gramian_of([rows]))
    torch.testing.assert_close(direction, weights @ rows, rtol=1e-6, atol=1e-8)
