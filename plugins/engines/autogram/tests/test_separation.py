"""Parameters that are transformed before they meet the data take no pass for each objective."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from jd_plugin_autogram import Autogram, meetings
from jd_plugin_autogram.contributions import Contribution
from jd_plugin_autogram.meetings import Meeting, Separation
from jd_plugin_autogram.operations import Operation, TensorUse, operation_for
from jd_plugin_autogram.operations.elementwise import Multiplication
from jd_plugin_autogram.operations.table import operations

from .truth import F64, Ramp, assert_served, grid, install, one, reference, several

N: Final = 5
"""Instances; 4 positions of 6 features each."""


class With(nn.Module):
    """A linear layer, and then a function of what it gives and of some parameters.

    :param function: Of the module and ``[n, 4, 6]``.
    :param shapes: The parameters', which are called p0, p1 and so on.
    """

    def __init__(self, function: Callable[[Any, Tensor], Tensor], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.function = function
        for i, shape in enumerate(shapes):
            setattr(self, f"p{i}", nn.Parameter(torch.randn(shape) / 2))
        self.register_buffer("places", torch.tensor([0, 2, 1, 2]))
        self.register_buffer("pairs", torch.tensor([[0, 1, 2, 3], [1, 0, 1, 2]] * 2))
        self.register_buffer("coordinates", torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.function(self, self.first(x))
        return found


class Mapped(nn.Module):
    """A small network that makes a parameter of something else from coordinates."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.maker = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 6), nn.Sigmoid())
        self.register_buffer("coordinates", torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x) * self.maker(self.coordinates)


class Cubed(torch.autograd.Function):
    """``w³ x``, with a derivative written in Python."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x * w**3

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        (gradient,) = gradients
        return gradient * w**3, (gradient * x * 3 * w**2).sum((0, 1))


def attention(m: Any, x: Tensor) -> Tensor:
    """Scores with a bias that is looked up by relative position."""
    bias = m.p0[m.pairs].permute(2, 0, 1).unsqueeze(0)
    heads = x.unflatten(2, (2, 3)).transpose(1, 2)
    return ((heads @ heads.mT + bias).softmax(-1) @ heads).transpose(1, 2).flatten(2)


def sinks(m: Any, x: Tensor) -> Tensor:
    """A learned score for each head beside those of the positions."""
    heads = x.unflatten(2, (2, 3)).transpose(1, 2)
    scores = heads @ heads.mT
    joined = torch.cat([scores, m.p0.reshape(1, 2, 1, 1).expand(len(x), -1, 4, -1)], dim=-1)
    return (joined.softmax(-1)[..., :-1] @ heads).transpose(1, 2).flatten(2)


def convolution(m: Any, x: Tensor) -> Tensor:
    weight = m.p0 - m.p0.mean((1, 2), keepdim=True)
    return functional.conv1d(x, weight / weight.std((1, 2), keepdim=True), m.p1.exp(), padding=1)


def experts(m: Any, x: Tensor) -> Tensor:
    """Groups of features with a matrix each, as ``einsum`` computes them."""
    return torch.einsum("bti,hio->btho", x, m.p0.exp()).flatten(2)


def scanned(m: Any, x: Tensor) -> Tensor:
    """A recurrence whose decay is ``-exp(log)``, as in state-space models."""
    decay, state, states = (-m.p0.exp()).exp(), torch.zeros_like(x[:, 0]), []
    for t in range(x.shape[1]):
        state = state * decay + x[:, t]
        states.append(state)
    return torch.stack(states, dim=1)


CASES: Final[dict[str, Callable[[], nn.Module]]] = {
    "a factor that is an exponential": lambda: With(lambda m, x: x * m.p0.exp(), (6,)),
    "a scale that is clamped": lambda: With(lambda m, x: x * m.p0.exp().clamp(max=1.2), ()),
    "layer scale": lambda: With(lambda m, x: x + m.p0.view(1, 1, 6) * x.sin(), (6,)),
    "a table of relative positions": lambda: With(attention, (4, 2)),
    "sinks beside the scores": lambda: With(sinks, (2,)),
    "a class token and positions": lambda: With(
        lambda m, x: (
            torch.cat([m.p0.unsqueeze(0).expand(len(x), -1, -1), x], 1) + m.p1[None, :5] * 2
        ),
        (1, 6),
        (7, 6),
    ),
    "biases joined by cat": lambda: With(
        lambda m, x: functional.linear(x, m.p0, torch.cat([m.p1, torch.zeros(3).to(x), m.p2])),
        (9, 6),
        (3,),
        (3,),
    ),
    "one plus a weight, in a norm": lambda: With(
        lambda m, x: functional.layer_norm(x, (6,), 1 + m.p0, m.p1.sin()), (6,), (6,)
    ),
    "the root mean square": lambda: With(
        lambda m, x: (1 + m.p0) * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-3)), (6,)
    ),
    "a norm of groups": lambda: With(
        lambda m, x: functional.group_norm(x, 2, m.p0.exp(), m.p1.exp()), (4,), (4,)
    ),
    "a weight that is standardised": lambda: With(convolution, (4, 4, 3), (4,)),
    "a parametrized weight": lambda: nn.Sequential(
        parametrizations.weight_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 3)
    ),
    "a weight that multiplies from the left": lambda: With(
        lambda m, x: (m.p0.exp() @ x[:, 0].T).T.unsqueeze(1), (5, 6)
    ),
    "a matrix for each head": lambda: With(experts, (2, 6, 3)),
    "a bilinear form": lambda: With(
        lambda m, x: functional.bilinear(x, x.sin(), m.p0.sin()), (3, 6, 6)
    ),
    "an embedding that is scaled": lambda: With(
        lambda m, x: x + functional.embedding((x.detach() * 9).long() % 4, m.p0.exp()).sum(2),
        (4, 6),
    ),
    "rows chosen by the data": lambda: With(
        lambda m, x: x + m.p0.exp()[(x.detach()[..., 0] * 9).long() % 4], (4, 6)
    ),
    "an exponent": lambda: With(lambda m, x: x.abs() ** m.p0.exp(), (6,)),
    "a denominator": lambda: With(lambda m, x: x / m.p0.exp(), (6,)),
    "a numerator": lambda: With(lambda m, x: m.p0.exp() / (2 + x.square()), (6,)),
    "a subtrahend": lambda: With(lambda m, x: x - m.p0.exp(), (4, 1)),
    "a choice": lambda: With(
        lambda m, x: torch.where(x > 0, x, m.p0.exp()) + torch.where(x > 0, m.p1.exp(), x),
        (6,),
        (4, 6),
    ),
    "a maximum": lambda: With(lambda m, x: torch.maximum(x, m.p0.exp()), (6,)),
    "a slope": lambda: With(lambda m, x: functional.prelu(x, m.p0.exp()), (4,)),
    "a state space": lambda: With(scanned, (6,)),
    "a network that makes a factor": Mapped,
    "a derivative in Python": lambda: With(lambda m, x: Cubed.apply(x, m.p0.exp()), (6,)),
    "two ways to the data": lambda: With(lambda m, x: x * m.p0.exp() + m.p0.sin(), (6,)),
    "a parameter that is used bare, too": lambda: With(
        lambda m, x: (x @ m.p0) * m.p0.exp().mean(0), (6, 6)
    ),
    "a sum of its own in each loss": lambda: With(
        lambda m, x: x.flatten(1) + m.p0.square().sum(), (6, 6)
    ),
}


@pytest.mark.parametrize("losses", [one, several, grid])
@pytest.mark.parametrize("case", CASES)
def test_a_transformed_parameter_takes_no_pass_for_each_objective(
    case: str, losses: Callable[[Tensor], Tensor]
) -> None:
    torch.manual_seed(0)
    model = CASES[case]().to(F64)
    for n in (N, 9):  # one row after the other, and together
        x = torch.randn(n, 4, 6, dtype=F64)
        engine = assert_served(model, lambda x=x: losses(model(x)))
        assert not engine.linearize([losses(model(x))]).plan.fallback


@pytest.mark.parametrize("case", CASES)
def test_each_parameter_has_its_own_rows(case: str) -> None:
    torch.manual_seed(0)
    model, x = CASES[case]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    engine = Autogram(model, batch_dim=0, verify_first=False)
    given = one(model(x))
    lin = engine.linearize([given], retain_graph=True)
    lin.gramians()
    found = dict(lin.blocks())
    for position, (name, parameter) in enumerate(model.named_parameters()):
        rows = [torch.autograd.grad(loss, parameter, retain_graph=True)[0] for loss in given]
        expected = torch.stack(rows)
        atol = 1e-12 * float(expected.abs().max()) + 1e-15
        torch.testing.assert_close(found[position], expected, rtol=0, atol=atol, msg=name)


def meetings_of(model: nn.Module, x: Tensor) -> list[Meeting]:
    plan = Autogram(model, batch_dim=0).linearize([one(model(x))]).plan
    separations = (use for use in plan.contributions if isinstance(use, Separation))
    return [meeting for separation in separations for meeting in separation.meetings]


@pytest.mark.parametrize("case", CASES)
def test_an_operations_rule_gives_what_its_own_derivative_gives(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model, x = CASES[case]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    expected = Autogram(model, batch_dim=0).compute_gramian(one(model(x)))
    monkeypatch.setattr("jd_plugin_autogram.separation.operation_for", lambda name: None)
    found = Autogram(model, batch_dim=0).compute_gramian(one(model(x)))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "case",
    [
        "a factor that is an exponential",
        "a table of relative positions",
        "one plus a weight, in a norm",
        "a norm of groups",
        "a weight that is standardised",
        "a matrix for each head",
        "an embedding that is scaled",
        "rows chosen by the data",
        "a slope",
        "a choice",
        "a denominator",
        "a state space",
        "a network that makes a factor",
    ],
)
def test_the_usual_operations_have_a_rule(case: str) -> None:
    torch.manual_seed(0)
    model, x = CASES[case]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    for meeting in meetings_of(model, x):
        assert meeting.use is not None, meeting.output.node.name()


def passes(run: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> int:
    """How many backward passes start from the losses."""
    count, grad = 0, torch.autograd.grad

    def counted(outputs: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += any(isinstance(output, Tensor) for output in outputs)
        return grad(outputs, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.autograd, "grad", counted)
        run()
    return count


@pytest.mark.parametrize("case", CASES)
def test_the_third_step_on_a_kind_of_graph_takes_one_pass(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if case in {"an embedding that is scaled", "rows chosen by the data"}:
        pytest.skip("the data choose the rows: where instances lie is looked for every time")
    torch.manual_seed(0)
    model = CASES[case]().to(F64)
    engine = Autogram(model, batch_dim=0)
    for n in (N, N, N + 2):
        x = torch.randn(n, 4, 6, dtype=F64)
        engine.backward(one(model(x)), Ramp())
    assert passes(lambda: engine.backward(one(model(x)), Ramp()), monkeypatch) == 1


class Products(Operation):
    """Another rule for ``x ∘ y``, which counts how often it is asked."""

    nodes = ("MulBackward0",)
    asked = 0

    def use(self, node: Any, position: int, shape: Sequence[int]) -> TensorUse | None:
        type(self).asked += 1
        return Multiplication().use(node, position, shape)


@pytest.mark.parametrize("broken", [False, True])
def test_an_installed_distribution_adds_a_rule_for_an_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    module = ModuleType("its_operations")
    module.It = None if broken else Products
    install(tmp_path, monkeypatch, "jdframework.gramian_operations", module)
    operations.cache_clear()
    torch.manual_seed(0)
    model, x = CASES["a factor that is an exponential"]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    try:
        if broken:
            with pytest.warns(UserWarning, match="'theirs' of third-party cannot be loaded"):
                assert isinstance(operation_for("MulBackward0"), Multiplication)
        else:
            assert_served(model, lambda: one(model(x)))
            assert Products.asked > 0
    finally:
        monkeypatch.undo()
        operations.cache_clear()


def test_what_is_zero_at_first_is_looked_at_again() -> None:
    """A gate that starts closed hides where the instances lie in what it multiplies."""
    torch.manual_seed(0)
    model = With(lambda m, x: x + (x + m.p0.exp()) * m.p1.tanh(), (6,), ()).to(F64)
    with torch.no_grad():
        model.p1.zero_()
    engine = Autogram(model, batch_dim=0)
    for value in (0.0, 0.0, 0.5, 1.0):
        with torch.no_grad():
            model.p1.fill_(value)
        losses = one(model(torch.randn(N, 4, 6, dtype=F64)))
        expected = reference(losses, engine.parameters)
        torch.testing.assert_close(engine.compute_gramian(losses), expected)


def test_another_model_under_the_same_names_is_not_taken_for_the_first() -> None:
    """A shared table of as many rows as there are instances, and then one of another length."""
    torch.manual_seed(0)
    model = With(lambda m, x: x + m.p0.exp()[: x.shape[1]], (8, 6)).to(F64)
    engine = Autogram(model, batch_dim=0)
    for n, length in ((4, 4), (4, 4), (4, 8), (8, 8), (2, 4), (8, 4)):
        losses = one(model(torch.randn(n, length, 6, dtype=F64)))
        expected = reference(losses, engine.parameters)
        torch.testing.assert_close(engine.compute_gramian(losses), expected)


def test_losses_that_mix_through_a_large_tensor_keep_their_passes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows of what is shared are not made where they would take more memory than allowed."""
    torch.manual_seed(0)
    model, x = CASES["a factor that is an exponential"]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    monkeypatch.setattr("jd_plugin_autogram.separation._LARGEST", N * 6 - 1)
    engine = assert_served(model, lambda: one(model(x)))
    (lost,) = engine.linearize([one(model(x))]).plan.fallback
    assert lost is model.p0


def test_a_retained_gradient_is_alive_after_rows_have_gone_by_together() -> None:
    torch.manual_seed(0)
    model = With(retaining, (6,)).to(F64)
    engine = Autogram(model, batch_dim=0, verify_first=False)
    for _ in range(3):
        losses = one(model(torch.randn(9, 4, 6, dtype=F64)))
        expected = reference(losses, engine.parameters)
        model.factor.grad = None
        torch.testing.assert_close(engine.compute_gramian(losses), expected)
        assert model.factor.grad is None or bool(model.factor.grad.isfinite().all())


def retaining(m: Any, x: Tensor) -> Tensor:
    m.factor = m.p0.exp()
    m.factor.retain_grad()
    return x * m.factor


def test_rows_go_one_by_one_where_a_hook_looks_at_values(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = With(hooked, (6,)).to(F64)
    engine = Autogram(model, batch_dim=0)
    tried, batched = [], meetings.batched_gradients
    monkeypatch.setattr(
        meetings, "batched_gradients", lambda *a, **k: (tried.append(1), batched(*a, **k))[1]
    )
    for _ in range(3):
        losses = one(model(torch.randn(9, 4, 6, dtype=F64)))
        expected = reference(losses, engine.parameters)
        torch.testing.assert_close(engine.compute_gramian(losses), expected)
    assert len(tried) == 1, "what failed once is not tried again on such a graph"


def hooked(m: Any, x: Tensor) -> Tensor:
    factor = m.p0.exp()
    factor.register_hook(lambda gradient: gradient if float(gradient.sum()) < 1e9 else None)
    return x * factor


def test_nobody_is_told_of_what_vmap_does_within() -> None:
    """Such a warning is about an operation that the user has never asked to be batched."""
    torch.manual_seed(0)
    weights = torch.tensor([0, 2, 1, 1])
    model = With(lambda m, x: x + torch.take(m.p0.exp(), weights).unsqueeze(1), (4,)).to(F64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_served(model, lambda: one(model(torch.ones(9, 4, 6, dtype=F64))))


def test_hooks_on_the_parameter_run_once_on_the_update() -> None:
    torch.manual_seed(0)
    model, x = CASES["a factor that is an exponential"]().to(F64), torch.randn(9, 4, 6, dtype=F64)
    seen: list[torch.Size] = []
    model.p0.register_hook(lambda gradient: seen.append(gradient.shape))
    Autogram(model, batch_dim=0).backward(one(model(x)), Ramp())
    assert seen == [(6,)]


def test_every_contribution_says_where_it_counts() -> None:
    torch.manual_seed(0)
    model, x = CASES["a class token and positions"]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    plan = Autogram(model, batch_dim=0).linearize([one(model(x))]).plan
    for use in plan.contributions:
        assert isinstance(use, Contribution)
        assert use.nodes
        assert len(use.places) == len(use.nodes)


@pytest.mark.parametrize("name", ["MulBackward0", "AddmmBackward0", "ConvolutionBackward0"])
def test_a_rule_is_found_by_the_nodes_name(name: str) -> None:
    operation = operation_for(name)
    assert operation is not None
    assert name in operation.nodes


def test_the_forecast_names_the_operations_without_a_rule() -> None:
    torch.manual_seed(0)
    model, x = CASES["a maximum"]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    engine = Autogram(model, batch_dim=0)
    before = engine.linearize([one(model(x))]).forecast().mode
    assert before == f"instance-wise, fused: one backward pass for all {N} objectives"
    engine.backward(one(model(x)), Ramp())
    after = engine.linearize([one(model(x))]).forecast().mode
    assert after == f"{before}; without a rule, and so an instance at a time: Maximum"


def test_the_forecast_knows_what_takes_a_pass_for_each_objective(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    model, x = CASES["a factor that is an exponential"]().to(F64), torch.randn(N, 4, 6, dtype=F64)
    monkeypatch.setattr("jd_plugin_autogram.separation._DEPTHS", (1,))
    engine = Autogram(model, batch_dim=0)
    engine.backward(one(model(x)), Ramp())
    mode = engine.linearize([one(model(x))]).forecast().mode
    assert mode.endswith(f"all {N} objectives, and one for each because of 1 parameters")


def test_the_forecast_counts_the_rows_of_what_is_cut_off() -> None:
    torch.manual_seed(0)
    model = With(lambda m, x: x.detach() * m.p0.exp(), (6,)).to(F64)
    losses = one(model(torch.randn(N, 4, 6, dtype=F64)))
    found = Autogram(model, batch_dim=0).linearize([losses]).forecast()
    assert found.memory == N * 6 * 8
    assert not found.dearer
