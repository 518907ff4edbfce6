"""State, parameters out of reach, memory that runs out, and exceptions in the middle of a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import torch
import torchjd.aggregation as peer
import torchjd.autogram as peer_autogram
import torchjd.autojac as peer_autojac
import torchjd.scalarization as peer_scalarization
from finding import Finding, Row, attempt, counted, relative_error, said
from of_models import truth
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite

_STEPS: Final = 6
_KINDS: Final[tuple[Kind, ...]] = ("weighting", "aggregator", "scalarizer")


def checkpoints() -> Row:
    """Row 4."""
    lost = []
    makers = _their_stateful()
    for name, (make, advance) in makers.items():
        seen = attempt(_resumed, make, advance)
        if seen.error is not None:
            lost.append(f"{name} (the state is refused: {type(seen.error).__name__})")
        elif not seen.value:
            lost.append(f"{name} (goes on differently, without a word)")
    ours = [
        (kind, name)
        for kind in _KINDS
        for name in jd.available(kind)
        if jd.describe(name, kind).stateful
    ]
    failed = []
    for kind, name in ours:
        suite: Any = derived_suite(kind, name)()
        seen = attempt(_resumed, suite.make, suite.advance)
        if seen.error is not None or not seen.value:
            failed.append(name)
    return Row(
        "training goes on from a checkpoint as if it had not stopped",
        f"{_STEPS // 2} steps, state_dict() strictly into a fresh instance, {_STEPS // 2} more, "
        f"against {_STEPS} without a break, bit for bit",
        Finding(not lost, counted(lost, len(makers), "do not go on alike")),
        Finding(not failed, counted(failed, len(ours), "do not go on alike")),
    )


def _resumed(make: Callable[[], Any], advance: Callable[[Any, int], Tensor]) -> bool:
    torch.manual_seed(0)
    whole = make()
    expected = [advance(whole, number) for number in range(_STEPS)]
    torch.manual_seed(0)
    interrupted = make()
    for number in range(_STEPS // 2):
        advance(interrupted, number)
    fresh = make()
    fresh.load_state_dict(interrupted.state_dict(), strict=True)
    found = [advance(fresh, number) for number in range(_STEPS // 2, _STEPS)]
    return all(map(torch.equal, found, expected[_STEPS // 2 :]))


def _their_stateful() -> dict[str, tuple[Callable[[], Any], Callable[[Any, int], Tensor]]]:
    """What torchjd documents as stateful, and one step of each."""

    def jacobian(number: int) -> Tensor:
        return torch.randn(3, 5, generator=torch.Generator().manual_seed(number))

    def losses(number: int) -> Tensor:
        return jacobian(number).abs().mean(1)

    def on_jacobian(method: Any, number: int) -> Tensor:
        found: Tensor = method(jacobian(number))
        return found.detach().clone()

    def on_two(method: Any, number: int) -> Tensor:
        found: Tensor = method(jacobian(number) @ jacobian(number + 1000).T)
        return found.detach().clone()

    def on_losses(method: Any, number: int) -> Tensor:
        leaf = losses(number).requires_grad_()
        (found,) = torch.autograd.grad(method(leaf), leaf)
        if hasattr(method, "update"):
            method.update(0.9 * losses(number))
        if hasattr(method, "step"):
            method.step()
        return found

    return {
        "GradVac": (peer.GradVac, on_jacobian),
        "MoDo": (peer.MoDoWeighting, on_two),
        "SDMGrad": (peer.SDMGradWeighting, on_two),
        "ExcessMTL": (peer.ExcessMTL, on_jacobian),
        "CR-MOGM": (lambda: peer.CRMOGMWeighting(peer.UPGradWeighting()), _on_gramian),
        "NashMTL": (lambda: peer.NashMTL(n_tasks=3, update_weights_every=2), on_jacobian),
        "DWA": (peer_scalarization.DWA, on_losses),
        "FAMO": (lambda: peer_scalarization.FAMO(3), on_losses),
    }


def _on_gramian(method: Any, number: int) -> Tensor:
    rows = torch.randn(3, 5, generator=torch.Generator().manual_seed(number))
    found: Tensor = method(rows @ rows.T)
    return found.detach().clone()


def out_of_reach() -> Row:
    """Row 9."""

    def parts() -> tuple[nn.Linear, nn.Linear, Tensor]:
        torch.manual_seed(0)
        used, unused = nn.Linear(3, 2), nn.Linear(3, 2)
        return used, unused, used(torch.ones(4, 3)).square().mean(0)

    def by_torchjd() -> None:
        used, unused, losses = parts()
        peer_autojac.backward(losses)
        peer_autojac.jac_to_grad([*used.parameters(), *unused.parameters()], peer.UPGrad())

    def by_ours() -> bool:
        used, unused, losses = parts()
        jd.backward(losses)
        jd.jac_to_grad([*used.parameters(), *unused.parameters()], "upgrad")
        return used.weight.grad is not None and unused.weight.grad is None

    theirs, ours = attempt(by_torchjd), attempt(by_ours)
    told = f"; a warning: {ours.warnings[0]}" if ours.warnings else ""
    return Row(
        "a parameter that no loss reaches is skipped, and named once",
        "backward, and jac_to_grad on the parameters of a layer that was used and of one that "
        "was not",
        Finding(theirs.error is None, str(theirs)),
        Finding(ours.value is True and len(ours.warnings) == 1, f"{ours}{told}"),
    )


class Limited(TorchDispatchMode):
    """A machine on which no single tensor can be larger than a limit."""

    def __init__(self, limit: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch has no types here
        self._limit = limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage().nbytes() > self._limit:
                raise torch.OutOfMemoryError("simulated: out of memory")
        return result


def out_of_memory() -> Row:
    """Row 10."""

    def case() -> tuple[nn.Sequential, Tensor]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(32, 100), nn.Tanh(), nn.Linear(100, 8))
        x = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
        return model, model(x).square().mean(0)

    widest = 4 * 32 * 100
    limit = 4 * widest  # of the 8 rows of the widest layer, half

    def gradient(model: nn.Module) -> Tensor:
        return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None])

    model, losses = case()
    jd.Descent(model, "upgrad", engine="autojac").backward(losses)
    expected = gradient(model)

    def by_torchjd() -> float:
        model, losses = case()
        with Limited(limit):
            peer_autojac.backward(losses)
            peer_autojac.jac_to_grad(model.parameters(), peer.UPGrad())
        return relative_error(gradient(model), expected)

    def by_ours() -> float:
        model, losses = case()
        engine = {"name": "chunked", "memory": "1GB", "offload": None}
        descent = jd.Descent(model, "upgrad", engine=engine)
        with Limited(limit):
            descent.backward(losses)
        return relative_error(gradient(model), expected)

    theirs, ours = attempt(by_torchjd), attempt(by_ours)
    told = f"; a warning: {ours.warnings[0]}" if ours.warnings else ""
    off = "" if ours.error is not None else f", the gradient is off by {ours.value:.1e}"
    return Row(
        "where memory runs out the step goes on with less at once",
        "a step of upgrad on 8 objectives where no tensor can hold more than 4 rows of the widest "
        "layer's Jacobian (simulated)",
        Finding(theirs.error is None, str(theirs)),
        Finding(ours.error is None and ours.value < 1e-4, f"{ours}{off}{told}"),
    )


class FailsOnce(torch.autograd.Function):
    """Raises in the backward pass as long as it is told to."""

    failing = True

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        if FailsOnce.failing:
            raise RuntimeError("user code that fails")
        return grads[0]


class _Failing(peer.Aggregator):
    def forward(self, matrix: Tensor, /) -> Tensor:
        raise RuntimeError("an aggregator that fails")


def exceptions() -> Row:
    """Row 13."""
    theirs = {"in the aggregator": _their_aggregator(), "in the forward pass": _their_forward()}
    ours = {"in the aggregator": _our_aggregator(), "in the forward pass": _our_forward()}

    def words(found: dict[str, tuple[bool, str]]) -> Finding:
        text = "; ".join(f"{where}: {seen}" for where, (_, seen) in found.items())
        return Finding(all(kept for kept, _ in found.values()), text)

    return Row(
        "after an exception nothing is half-filled, and the next step is right",
        "an exception in the aggregator of a two-task step with heads, and one in the forward "
        "pass before the Gramian of the next batch",
        words(theirs),
        words(ours),
    )


def _tasks() -> tuple[nn.Linear, nn.ModuleList, Tensor, list[Tensor]]:
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 4), nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
    features = trunk(torch.ones(5, 3))
    return trunk, heads, features, [head(features).square().mean() for head in heads]


def _filled(trunk: nn.Module, heads: nn.Module) -> tuple[bool, str]:
    grads = sum(p.grad is not None for m in (trunk, heads) for p in m.parameters())
    jacobians = sum(getattr(p, "jac", None) is not None for p in trunk.parameters())
    whole = grads == 0 and jacobians == 0
    return whole, f"{grads} of 6 .grad and {jacobians} of 2 .jac fields are filled"


def _their_aggregator() -> tuple[bool, str]:
    trunk, heads, features, losses = _tasks()

    def step() -> None:
        peer_autojac.mtl_backward(losses, features=features)
        peer_autojac.jac_to_grad(trunk.parameters(), _Failing())

    attempt(step)
    return _filled(trunk, heads)


def _our_aggregator() -> tuple[bool, str]:
    from jdframework.bases import Aggregator

    class Failing(Aggregator):
        def forward(self, jacobian: Tensor, /) -> Tensor:
            raise RuntimeError("an aggregator that fails")

    trunk, heads, features, losses = _tasks()
    attempt(lambda: jd.Descent(trunk, Failing()).backward(losses, features=features))
    return _filled(trunk, heads)


def _after_forward(engine: Any, model: nn.Sequential) -> tuple[bool, str]:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))

    def fail(*_: object) -> None:
        raise RuntimeError("user code that fails")

    with model[2].register_forward_pre_hook(fail):
        attempt(lambda: model(x))

    def again() -> float:
        losses = model(x).square().mean(1)
        return relative_error(engine.compute_gramian(losses), truth(losses, model))

    after = attempt(again)
    if after.error is not None:
        return False, f"the next Gramian: {said(after.error)}"
    return after.value < 1e-4, f"the next Gramian is off by {after.value:.1e}"


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def _their_forward() -> tuple[bool, str]:
    model = _network()
    return _after_forward(peer_autogram.Engine(model, batch_dim=0), model)


def _our_forward() -> tuple[bool, str]:
    model = _network()
    return _after_forward(jd.engine("autogram", model, batch_dim=0), model)
