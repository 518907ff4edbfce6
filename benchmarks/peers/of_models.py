"""Models on which engines go wrong: tied, wrapped, compiled, normalised by the batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
import torchjd.autogram as peer_autogram
import torchjd.autojac as peer_autojac
from finding import Attempt, Finding, Row, attempt, relative_error, said
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel
from torchjd.aggregation import UPGrad

import jdframework as jd

_EXACT: Final = 1e-4
_RANKS: Final = 2


def truth(losses: Tensor, model: nn.Module) -> Tensor:
    """The Gramian, row by row by plain autograd."""
    rows = []
    for loss in losses:
        found = torch.autograd.grad(
            loss, list(model.parameters()), retain_graph=True, allow_unused=True
        )
        rows.append(torch.cat([g.reshape(-1) for g in found if g is not None]))
    jacobian = torch.stack(rows)
    return jacobian @ jacobian.T


def wrapped() -> Row:
    """Row 2."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, args=(folder,), nprocs=_RANKS)
        ends = [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(_RANKS)]
    drift = relative_error(ends[0]["theirs"], ends[1]["theirs"])
    said_by_ours = str(ends[0]["ours"])
    error = ends[0]["error"]
    return Row(
        "replicas of a model never drift apart in silence",
        f"three steps of SGD on a DistributedDataParallel model on {_RANKS} ranks with different "
        f"batches (gloo)",
        Finding(
            not error and drift < _EXACT,
            error or f"no error, and the ranks' parameters differ by {drift:.1%}",
        ),
        Finding(said_by_ours.startswith("UnsupportedModelError"), said_by_ours),
    )


def _rank(rank: int, folder: str) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=_RANKS
    )
    torch.manual_seed(0)
    model = DistributedDataParallel(nn.Linear(3, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(rank)

    def train() -> None:
        for _ in range(3):
            losses = model(torch.randn(8, 3, generator=generator)).square().mean(0)
            peer_autojac.backward(losses)
            peer_autojac.jac_to_grad(model.parameters(), UPGrad())
            optimizer.step()
            optimizer.zero_grad()

    trained = attempt(train)
    refused = attempt(lambda: jd.Descent(model, "upgrad"))
    end = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])
    error = "" if trained.error is None else said(trained.error)
    torch.save({"theirs": end, "ours": str(refused), "error": error}, Path(folder, f"{rank}.pt"))
    dist.destroy_process_group()


class Tied(nn.Module):
    """An embedding whose weight is the output layer's, too."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        found: Tensor = self.out(self.embedding(tokens).mean(1))
        return found


class UsedDirectly(nn.Module):
    """Computes with the parameter of a child that is also called."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4, bias=False)
        self.out = nn.Linear(4, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.out(torch.tanh(self.inner(x)) @ self.inner.weight)
        return found


def shared_weights() -> Row:
    """Row 3."""
    generator = torch.Generator().manual_seed(0)
    cases: list[tuple[str, Callable[[], nn.Module], Tensor]] = [
        ("tied weights", Tied, torch.randint(7, (5, 3), generator=generator)),
        ("a child's parameter", UsedDirectly, torch.randn(5, 4, generator=generator)),
    ]
    errors: dict[str, list[tuple[str, Attempt]]] = {"theirs": [], "ours": []}
    for name, make, x in cases:
        for whose, gramian_of in (("theirs", _their_gramian), ("ours", _our_gramian)):
            torch.manual_seed(0)
            model = make()
            errors[whose].append((name, attempt(gramian_of, model, x)))
    return Row(
        "tied weights, and a child's parameter used directly, give the exact Gramian",
        "autogram's Gramian of five instances against plain autograd's (torchjd documents the "
        "second as incorrect use)",
        _of_errors(errors["theirs"]),
        _of_errors(errors["ours"]),
    )


def _their_gramian(model: nn.Module, x: Tensor) -> float:
    engine = peer_autogram.Engine(model, batch_dim=0)
    losses = model(x).square().mean(1)
    return relative_error(engine.compute_gramian(losses), truth(losses, model))


def _our_gramian(model: nn.Module, x: Tensor) -> float:
    engine = jd.engine("autogram", model, batch_dim=0)
    losses = model(x).square().mean(1)
    return relative_error(engine.compute_gramian(losses), truth(losses, model))


def _of_errors(found: list[tuple[str, Attempt]]) -> Finding:
    """Kept where every error is rounding; what was raised is told."""
    words = [
        f"{name}: {said(a.error)}" if a.error is not None else f"{name}: off by {a.value:.1e}"
        for name, a in found
    ]
    kept = all(a.error is None and a.value < _EXACT for _, a in found)
    return Finding(kept, "; ".join(words))


class Squared(torch.autograd.Function):
    """A user's function that says nothing of vmap."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        if not bool(torch.isfinite(grads[0].detach()).all()):
            raise ValueError("this gradient is not finite")
        found: Tensor = 2 * x * grads[0]
        return found


def limits_of_vmap() -> Row:
    """Row 5."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def retained(model: nn.Sequential) -> Tensor:
        hidden = model[:2](x)
        hidden.retain_grad()
        found: Tensor = model[2](hidden).square().mean(0)
        return found

    def compiled(model: nn.Sequential) -> Tensor:
        torch._functorch.config.donated_buffer = False
        found: Tensor = torch.compile(model, backend="aot_eager")(x).square().mean(0)
        return found

    def autocast(model: nn.Sequential) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            normed = nn.functional.layer_norm(model[:2](x), (5,))
            found: Tensor = model[2](normed).float().square().mean(0)
        return found

    def custom(model: nn.Sequential) -> Tensor:
        found: Tensor = Squared.apply(model(x)).mean(0)  # type: ignore[no-untyped-call]  # torch's
        return found

    def sparse(model: nn.Sequential) -> Tensor:
        table = nn.Embedding(9, 4, sparse=True)
        found: Tensor = model(table(torch.arange(6))).square().mean(0)
        return found

    cases = {
        "retained gradients": retained,
        "torch.compile": compiled,
        "autocast through layer norm": autocast,
        "a function with data-dependent control flow": custom,
        "a sparse embedding": sparse,
    }
    found: dict[str, list[tuple[str, Attempt]]] = {"theirs": [], "ours": []}
    for name, losses_of in cases.items():
        for whose, gramian_of in (("theirs", _their_rows), ("ours", _our_rows)):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
            found[whose].append((name, attempt(lambda g=gramian_of, m=model, f=losses_of: g(m, f))))
    return Row(
        "what torch.vmap cannot do is done one by one",
        "Jacobians of three objectives by autojac at its default settings, on the CPU; the Gramian "
        "against plain autograd's",
        _of_errors(found["theirs"]),
        _of_errors(found["ours"]),
    )


def _their_rows(model: Any, losses_of: Callable[[Any], Tensor]) -> float:
    losses = losses_of(model)
    expected = truth(losses, model)
    parameters = list(model.parameters())
    peer_autojac.backward(losses, inputs=parameters, retain_graph=True)
    jacobian = torch.cat([p.jac.reshape(len(losses), -1) for p in parameters], 1)
    return relative_error(jacobian @ jacobian.T, expected)


def _our_rows(model: Any, losses_of: Callable[[Any], Tensor]) -> float:
    losses = losses_of(model)
    expected = truth(losses, model)
    return relative_error(jd.engine("autojac", model).compute_gramian(losses), expected)


def batch_statistics() -> Row:
    """Row 11."""
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))

    def normalised() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3))

    def dropped() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3))

    def by_descent(model: nn.Module, x: Tensor) -> float:
        losses = model(x).square().mean(1)
        expected = truth(losses, model)
        step = jd.Descent(model, "upgrad", batch_dim=0).backward(losses)
        assert step.gramian is not None
        return relative_error(step.gramian, expected)

    cases = (("batch norm", normalised), ("dropout", dropped))
    theirs = [(name, attempt(_their_gramian, make(), x)) for name, make in cases]
    ours = [(name, attempt(by_descent, make(), x)) for name, make in cases]
    refused = attempt(_our_gramian, normalised(), x)
    clear = isinstance(refused.error, jd.UnsupportedModelError) and "'1'" in str(refused.error)
    seen = _of_errors(ours)
    named = [a.error is None or "BatchNorm" in str(a.error) for _, a in theirs]
    right = [a.error is not None or a.value < _EXACT for _, a in theirs]
    return Row(
        "batch norm and dropout under batch_dim are exact, or refused with the layer's name",
        "the Gramian of six instances with batch_dim=0 against plain autograd's",
        Finding(all(named) and all(right), _of_errors(theirs).observed),
        Finding(seen.kept and clear, f"{seen.observed} (engine='auto'); autogram alone: {refused}"),
    )
