"""The one object of a training loop: a method, and the engine that serves it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from jdframework import hooks, linalg, registry
from jdframework.autograd_graph import leaves_of
from jdframework.combination import weights_of
from jdframework.engine_choice import Automatic, required
from jdframework.errors import ConfigError, NonFiniteError, UnsupportedModelError
from jdframework.names import Kind
from jdframework.objectives import Losses, Objectives, check_differentiable, objectives
from jdframework.outcome import Outcome
from jdframework.protocols import ActsAfterUpdate, Engine, HasEpochs, Stateful
from jdframework.registry import Spec
from jdframework.step import Step

OnNonFinite = Literal["raise", "skip", "propagate"]

_AUTOGRAD: Final = "autograd"


class Descent:
    """Trains modules on several objectives, by any method.

    A scalarizer takes one ordinary backward pass; a weighting or an aggregator runs on an engine.
    A name that is both (``mean``, ``sum``, ``constant``, ``random``) runs as the scalarizer, the
    cheaper way to the same step, unless an engine is named.

    :param modules: The module, or the modules, whose parameters the objectives share.
    :param method: A spec of a weighting, an aggregator or a scalarizer.
    :param engine: A spec of an engine, or ``"auto"`` for the cheapest that serves the method and
        the model; scalarizers need none.
    :param batch_dim: The dimension along which instances are independent and each has its own
        loss; None if each objective depends on the whole batch.
    :param on_nonfinite: What to do if a loss or a gradient is NaN or infinite: ``"raise"``,
        ``"skip"`` the step and leave ``.grad`` as it is, or ``"propagate"``.
    :param config: The method's settings.
    :raises UnknownNameError: if no installed plugin offers a name.
    :raises ConfigError: if the method or the engine does not take its settings.
    :raises UnsupportedModelError: if no engine can serve the method on these modules.

    >>> model = torch.nn.Linear(4, 1)
    >>> descent = Descent(model, "upgrad", batch_dim=0)
    >>> step = descent.backward(model(torch.randn(8, 4)).square().flatten())
    >>> step.weights.shape, model.weight.grad.shape
    (torch.Size([8]), torch.Size([1, 4]))
    """

    def __init__(
        self,
        modules: nn.Module | Sequence[nn.Module],
        method: Spec,
        *,
        engine: Spec = "auto",
        batch_dim: int | None = None,
        on_nonfinite: OnNonFinite = "raise",
        **config: Any,
    ) -> None:
        if on_nonfinite not in get_args(OnNonFinite):
            allowed = ", ".join(map(repr, get_args(OnNonFinite)))
            raise ConfigError(
                f"on_nonfinite = {on_nonfinite!r} was given, but it is one of {allowed}"
            )
        self._modules = _checked_modules(modules)
        self._method = registry.method(method, prefer=_preferred_kinds(engine), **config)
        _move_with(self._modules, self._method)
        self._on_nonfinite = on_nonfinite
        self._automatic: Automatic | None = None
        self._engine = self._engine_for(engine, batch_dim)
        self._steps = 0

    @property
    def method(self) -> Any:
        """The weighting, aggregator or scalarizer."""
        return self._method

    @property
    def engine(self) -> Engine | None:
        """The engine; None for a scalarizer."""
        return self._engine

    def backward(
        self,
        losses: Losses,
        *,
        features: Tensor | Sequence[Tensor] | None = None,
        independent: Losses | None = None,
        retain_graph: bool = False,
    ) -> Step:
        """Adds the method's update to ``.grad``, as ``torch.Tensor.backward`` adds a gradient.

        Whatever is raised on the way, ``.grad`` is as it was before.

        :param losses: A tensor of any shape, one objective per entry; a sequence of scalars; or a
            mapping from name to scalar.
        :param features: The shared representation of several tasks. Parameters past it, the
            heads', get their own plain gradient. Without it, they get the weighted one, as
            ``losses.backward(weights)`` would give them. A scalarizer makes no use of it.
        :param independent: The same objectives on another, independent batch, for the methods that
            need a cross-gramian.
        :param retain_graph: Whether the graph can be used again.
        :return: What the step did.
        :raises ValueError: if ``losses`` is empty, has an entry that is no scalar, or has no graph.
        :raises NonFiniteError: if a loss or a gradient is not finite, naming the objective and the
            step (with ``on_nonfinite="raise"``).
        """
        given = objectives(losses)
        check_differentiable(given)
        values = given.values()
        outcome: Outcome | None = None
        try:
            self._check_losses(given, values)
            if self._engine is None:
                outcome = self._scalarized(given, values, retain_graph)
            else:
                outcome = self._served(self._engine, given, features, independent, retain_graph)
        except NonFiniteError:
            if self._on_nonfinite != "skip":
                raise
        step = self._record(given, values, outcome)
        self._steps += 1
        hooks.call("jd_step", step=step)
        return step

    def after_update(self, losses: Losses) -> None:
        """Tells the methods that act after the optimizer's step (FAMO) the new losses.

        :param losses: Those of the same batch, under the new parameters.
        """
        if isinstance(self._method, ActsAfterUpdate):
            self._method.after_update(objectives(losses).values())

    def end_epoch(self) -> None:
        """Tells the methods that have epochs (DWA) that one is over."""
        if isinstance(self._method, HasEpochs):
            self._method.end_epoch()

    def reset(self) -> None:
        """Makes a stateful method forget earlier steps."""
        if isinstance(self._method, Stateful):
            self._method.reset()

    def parameters(self) -> Iterator[nn.Parameter]:
        """The method's trainable parameters, for the optimizer; usually none."""
        parameters: Iterator[nn.Parameter] = self._method.parameters()
        return parameters

    def state_dict(self) -> dict[str, Any]:
        """The method's state."""
        state: dict[str, Any] = self._method.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts the method's state back.

        :raises RuntimeError: if it is that of another method, or of other settings.
        """
        self._method.load_state_dict(state, strict=True)

    def close(self) -> None:
        """Leaves the model as it was before."""
        if self._engine is not None:
            self._engine.close()

    def __repr__(self) -> str:
        engine = _AUTOGRAD if self._engine is None else self._engine.name
        return f"Descent({self._method!r}, engine={engine!r})"

    def _engine_for(self, engine: Spec, batch_dim: int | None) -> Engine | None:
        if self._method.kind == "scalarizer":
            return None
        if isinstance(engine, str) and engine == "auto":
            self._automatic = Automatic(self._modules, self._method, batch_dim)
            return self._automatic.engine
        if isinstance(engine, str | Mapping):
            found = registry.engine(engine, *self._modules, **_batch_dim_for(engine, batch_dim))
        else:
            found = registry.engine(engine)
        lacking = required(self._method) - found.capabilities
        if lacking:
            raise UnsupportedModelError(
                f"the method {self._method.name!r} needs the {' and the '.join(sorted(lacking))}, "
                f"which the engine {found.name!r} does not form: use engine='auto'"
            )
        return found

    def _scalarized(self, given: Objectives, values: Tensor, retain_graph: bool) -> Outcome:
        leaf = values.clone().requires_grad_()
        leaves = [*leaves_of(given.tensors), *self._method.parameters()]
        with _Restored(leaves):
            self._method(leaf).backward()
            weights = torch.zeros_like(values) if leaf.grad is None else leaf.grad
            starts = _like(given, weights)
            torch.autograd.backward(given.tensors, starts, retain_graph=retain_graph)
            self._check_gradients(leaves)
        return Outcome(weights.reshape(-1), None)

    def _served(
        self,
        engine: Engine,
        given: Objectives,
        features: Tensor | Sequence[Tensor] | None,
        independent: Losses | None,
        retain_graph: bool,
    ) -> Outcome:
        while True:
            try:
                return self._descended(engine, given, features, independent, retain_graph)
            except UnsupportedModelError as refusal:
                if self._automatic is None:
                    raise
                engine = self._engine = self._automatic.replace(refusal)

    def _descended(
        self,
        engine: Engine,
        given: Objectives,
        features: Tensor | Sequence[Tensor] | None,
        independent: Losses | None,
        retain_graph: bool,
    ) -> Outcome:
        method = self._method
        if "cross-gramian" in method.needs:
            method = _Fixed(self._cross_weights(engine, given, independent))
        elif independent is not None:
            raise ValueError(f"{method.name} makes no use of independent batches: leave them out")
        cut_at = [features] if isinstance(features, Tensor) else features
        return engine.update(
            given.as_engine_input(),
            method,
            features=cut_at,
            retain_graph=retain_graph,
            check=None if self._on_nonfinite == "propagate" else self._checker(given),
        )

    def _cross_weights(
        self, engine: Engine, given: Objectives, independent: Losses | None
    ) -> Float[Tensor, " m"]:
        if independent is None:
            raise ValueError(
                f"{self._method.name} needs the same objectives on an independent batch: "
                f"backward(losses, independent=…)"
            )
        other = objectives(independent, "independent")
        if other.m != given.m:
            raise ValueError(f"independent has {other.m} objectives, but losses has {given.m}")
        first = engine.compute_jacobian(given.as_engine_input())
        second = engine.compute_jacobian(other.as_engine_input())
        cross = linalg.cross_gramian(first, second)
        return weights_of(self._method, cross, first, given.values())

    def _checker(self, given: Objectives) -> Any:
        def check(gramian: Tensor) -> None:
            norms = gramian.diagonal()
            if not bool(torch.isfinite(norms.sum())):
                self._refuse(given, norms, "the gradient")

        return check

    def _check_losses(self, given: Objectives, values: Tensor) -> None:
        if self._on_nonfinite != "propagate" and not bool(torch.isfinite(values.sum())):
            self._refuse(given, values.reshape(-1), "the loss")

    def _check_gradients(self, leaves: Sequence[Tensor]) -> None:
        if self._on_nonfinite == "propagate":
            return
        found = [leaf.grad for leaf in leaves if leaf.grad is not None]
        if not bool(torch.isfinite(get_total_norm(found, norm_type=math.inf))):
            raise NonFiniteError(
                f"step {self._steps}: all losses are finite, but the gradient of their combination "
                f"is not; on_nonfinite='skip' would leave such steps out"
            )

    def _refuse(self, given: Objectives, values: Tensor, what: str) -> None:
        bad = [given.names[int(i)] for i in torch.nonzero(~torch.isfinite(values)).flatten()]
        if not bad:
            return
        several = f" and {len(bad) - 3} more" if len(bad) > 3 else ""
        raise NonFiniteError(
            f"step {self._steps}: {what} of objective {', '.join(map(repr, bad[:3]))}{several} is "
            f"not finite; on_nonfinite='skip' would leave such steps out"
        )

    def _record(self, given: Objectives, values: Tensor, outcome: Outcome | None) -> Step:
        return Step(
            names=given.names,
            skipped=outcome is None,
            losses=values.reshape(-1),
            weights=None if outcome is None else outcome.weights,
            gramian=None if outcome is None else outcome.gramian,
            engine=_AUTOGRAD if self._engine is None else self._engine.name,
        )


class _Fixed:
    """A weighting whose weights are known already."""

    kind: Final = "weighting"
    needs: Final[frozenset[str]] = frozenset()

    def __init__(self, weights: Tensor) -> None:
        self._weights = weights

    def __call__(self, gramian: Tensor, /) -> Tensor:
        return self._weights


class _Restored:
    """A context that puts ``.grad`` back as it was if the backward pass inside of it fails."""

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self._before = [
            (leaf, leaf.grad, None if leaf.grad is None else leaf.grad.clone()) for leaf in leaves
        ]

    def __enter__(self) -> None:
        pass

    @torch.no_grad()
    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for leaf, grad, copy in self._before:
            leaf.grad = grad if grad is None or copy is None else grad.copy_(copy)


def _preferred_kinds(engine: Spec) -> tuple[Kind, ...]:
    if isinstance(engine, str) and engine == "auto":
        return ("scalarizer", "weighting", "aggregator")
    return ("weighting", "aggregator", "scalarizer")


def _checked_modules(modules: nn.Module | Sequence[nn.Module]) -> tuple[nn.Module, ...]:
    found: tuple[Any, ...] = (modules,)
    if isinstance(modules, Iterable) and not isinstance(modules, nn.Module):
        found = tuple(modules)
    if not found or not all(isinstance(module, nn.Module) for module in found):
        raise ConfigError(
            f"modules must be a torch.nn.Module or a sequence of them, not {modules!r}"
        )
    return found


def _move_with(modules: Sequence[nn.Module], method: nn.Module) -> None:
    parameter = next((p for module in modules for p in module.parameters()), None)
    if parameter is not None:
        method.to(parameter.device)


def _batch_dim_for(engine: str | Mapping[str, Any], batch_dim: int | None) -> dict[str, Any]:
    if not isinstance(engine, str) and "batch_dim" in engine:
        return {}
    return {"batch_dim": batch_dim}


def _like(given: Objectives, weights: Tensor) -> list[Tensor]:
    parts = torch.split(weights.reshape(-1), [tensor.numel() for tensor in given.tensors])
    return [part.reshape(t.shape).to(t.dtype) for part, t in zip(parts, given.tensors, strict=True)]
