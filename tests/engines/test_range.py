"""Gradients near the ends of single precision's range, and tensors of ten million numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd

from .truth import ENGINES

pytestmark = pytest.mark.filterwarnings("ignore:.*differentiates one objective at a time")

SCALES = {
    "tiny": [1e-30] * 5,
    "huge": [1e20] * 5,
    "tiny beside ordinary": [1e-30, 1.0, 0.0, 1e3, 1e-22],
    "huge beside ordinary": [1e20, 1.0, 1e-3, 0.0, 1e-5],
}
METHODS: dict[str, dict[str, Any]] = {
    "upgrad": {},
    "mgda": {},
    "imtl-g": {},
    "aligned-mtl": {},
    "config": {},
    "cagrad": {"c": 0.5},
    "dual-proj": {},
    "gradnorm": {},
    "gradvac": {},
    "krum": {"n_byzantine": 1},
    "nash-mtl": {},
    "pcgrad": {},
}
MODES = [
    *((engine, None, {}) for engine in ENGINES),
    ("autogram", 0, {}),
    ("autogram", 0, {"memory": 0.0}),
    ("autogram", None, {"memory": 0.0}),
    ("chunked", None, {"memory": "1KB"}),
]


class Tied(nn.Module):
    """An embedding that is the output's weight as well, and attention on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        h = self.table((2 * x.flatten(1).abs()).long() % 7)
        return nn.functional.linear(self.attention(h, h, h)[0], self.table.weight)


def models() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "convolutions": nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.Tanh(), nn.Flatten(1), nn.Linear(64, 3)
        ),
        "tied": Tied(),
    }


def step_of(
    model: nn.Module,
    scales: list[float],
    dtype: torch.dtype,
    method: tuple[str, dict[str, Any]],
    mode: tuple[str, int | None, dict[str, Any]] = ("autojac", None, {}),
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[Any, Tensor]:
    """The step, and the gradient in one piece."""
    model = model.to(dtype)
    model.zero_grad()
    engine, batch_dim, settings = mode
    x = torch.randn(5, 3, 6, 6, generator=torch.Generator().manual_seed(1)).to(dtype)
    factors = torch.tensor(scales, dtype=torch.float64).to(dtype)
    torch.manual_seed(2)
    descent = jd.Descent(
        model, method[0], engine={"name": engine, **settings}, batch_dim=batch_dim, **method[1]
    )
    losses = model(x).flatten(1).square().mean(1) * factors
    step = descent.backward(losses, scaler=scaler)
    parameters = model.parameters()
    return step, torch.cat([p.grad.double().flatten() for p in parameters if p.grad is not None])


def check_like_double_precision(found: tuple[Any, Tensor], true: tuple[Any, Tensor]) -> None:
    (step, gradient), (exact, wanted) = found, true
    norms = exact.gramian.diagonal().sqrt()
    scale = norms * norms[:, None]
    error = (step.gramian.double() - exact.gramian) / torch.where(scale > 0, scale, 1.0)
    assert error.abs().max() <= 1e-5
    assert (gradient - wanted).norm() <= 2e-5 * wanted.norm()


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_gives_the_weights_of_double_precision(name: str, scales: str) -> None:
    method, given = (name, METHODS[name]), SCALES[scales]
    model = models()["convolutions"]
    found = step_of(model, given, torch.float32, method)
    true = step_of(model, given, torch.float64, method)
    check_like_double_precision(found, true)
    large = true[0].weights.abs() > 1e-3 * true[0].weights.abs().max()
    wanted = true[0].weights[large]
    torch.testing.assert_close(found[0].weights.double()[large], wanted, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", ["upgrad", "grouped"])
@pytest.mark.parametrize("scaled", [False, True], ids=["unscaled", "scaled"])
@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("model", models())
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_every_engine_serves_both_ends(
    mode: Any, model: str, scales: str, scaled: bool, method: str
) -> None:
    spec = (method, {"inner": "upgrad"} if method == "grouped" else {})
    given, network = SCALES[scales], models()[model]
    scaler = torch.amp.GradScaler("cpu") if scaled else None
    step, gradient = step_of(network, given, torch.float32, spec, mode, scaler)
    if scaler is not None:
        gradient = gradient / scaler.get_scale()
    true = step_of(network, given, torch.float64, spec)
    check_like_double_precision((step, gradient), true)


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_zero_gradients_beside_ordinary_ones_change_nothing(mode: Any) -> None:
    step, _ = step_of(
        models()["convolutions"], [1.0, 0.0, 1.0, 0.0, 1.0], torch.float32, ("upgrad", {}), mode
    )
    assert step.gramian.dtype == torch.float32
    assert step.gramian.diagonal()[[1, 3]].tolist() == [0.0, 0.0]


def test_a_weight_that_the_losses_dtype_cannot_hold_is_refused() -> None:
    model = nn.Linear(3, 2)
    losses = model(torch.ones(3)).square() * 1e-38
    with pytest.raises(
        jd.NonFiniteError, match=r"a weight of 1e\+40 is out of the range of float32"
    ):
        jd.Descent(
            model, "constant", engine={"name": "autogram", "memory": 0.0}, weights=[1e40, 1.0]
        ).backward(losses)


@pytest.mark.parametrize("batch_dim", [None, 0])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_of_ten_million_numbers_has_an_exact_gramian(
    engine: str, batch_dim: int | None
) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4000, 2500, bias=False)
    x = torch.rand(2, 4000) ** 4
    outputs = model(x).square()
    losses = outputs.mean(1) if batch_dim == 0 else torch.stack([outputs.mean(), outputs[0].mean()])
    found = jd.engine(engine, model, batch_dim=batch_dim).compute_gramian(losses)
    rows = torch.stack(
        [torch.autograd.grad(loss, model.weight, retain_graph=True)[0].flatten() for loss in losses]
    ).double()
    norms = rows.norm(dim=1)
    error = (found.double() - rows @ rows.T) / norms / norms[:, None]
    assert error.abs().max() <= 2e-6
