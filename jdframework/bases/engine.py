"""Base of engines, which differentiate the losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Final, Literal, Self

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from jdframework.autograd.accumulation import add_to_grad
from jdframework.autograd.autocast import without_autocast
from jdframework.autograd.eager import eager
from jdframework.autograd.graph import gradients, weighted_starts
from jdframework.autograd.ranks import check_one_rank
from jdframework.autograd.shared_modules import trained
from jdframework.bases.configured import Configured
from jdframework.bases.scalarizer import Scalarizer
from jdframework.config import Config, Paper, validated
from jdframework.errors import UnsupportedModelError
from jdframework.linearization import Demand, Forecast, Linearization
from jdframework.linearization.blocks import as_reals
from jdframework.linearization.combination import NOTHING_REACHED, linearized, update
from jdframework.linearization.features import Representation, cut_losses, foreseen_cut
from jdframework.linearization.objectives import check_differentiable, objectives
from jdframework.protocols.names import Kind, Need

_WRAPPERS: Final = frozenset({"DistributedDataParallel", "FullyShardedDataParallel", "FSDPModule"})


class EngineConfig(Config):
    """Settings that every engine has."""

    batch_dim: int | None = Field(
        None,
        description="The dimension along which instances are independent, one objective each; "
        "None if each objective depends on the whole batch.",
    )


class Engine(Configured, ABC):
    """Base of every engine.

    :param modules: The modules whose parameters the objectives share.
    :param config: The engine's settings.
    :raises ConfigError: if it does not take these settings.
    :raises UnsupportedModelError: if it cannot serve the modules.
    """

    kind: ClassVar[Kind] = "engine"
    """Always ``"engine"``."""
    Config: ClassVar[type[Config]] = EngineConfig
    """The model of the settings."""
    paper: ClassVar[Paper | None] = None
    """Where it was published."""
    needs: frozenset[Need] = frozenset()
    """Nothing: an engine is what meets the needs of methods."""
    trainable: ClassVar[bool] = False
    """A capability that no engine has."""
    claims: ClassVar[Mapping[str, Any]] = {}
    """As of a method: class attributes of its suite, as ``{"refuses": …}``."""
    capabilities: ClassVar[frozenset[str]]
    """A subset of ``{"gramian", "jacobian", "fused", "sharded"}``."""
    cost: ClassVar[int] = 100
    """``engine="auto"`` tries engines in this order, the cheapest first."""

    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        self.config = validated(self.Config, self.name, config)
        self.modules = modules
        reason = self.refusal(modules, self.config)
        if reason is not None:
            raise UnsupportedModelError(reason, self.name)

    @classmethod
    def refusal(cls, modules: Sequence[nn.Module], config: Any) -> str | None:
        """Why this engine cannot serve the modules, and the remedy; None if it can.

        :param modules: Those whose parameters the objectives share.
        :param config: The validated settings.
        """
        capabilities = cls.capabilities
        return unserved(modules, sharded="sharded" in capabilities, rows="jacobian" in capabilities)

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The modules' parameters that require gradients now, each once, in their order."""
        return trained(self.modules)

    @abstractmethod
    def linearize(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        *,
        cotangents: Sequence[Float[Tensor, "m *shape"]] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        need: Demand = "gramian",
        retain_graph: bool = False,
    ) -> Linearization:
        """The linearization of the outputs at this point; nothing is computed yet.

        This is all that an engine has to do: everything else follows from what it gives.

        :param outputs: Losses, ``m`` entries in all; or, with ``cotangents``, tensors on the way to
            them, the features.
        :param inputs: With respect to what. When None: ``parameters``, and with them, in ``vjp``,
            every other leaf that the outputs depend on.
        :param cotangents: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output;
            each entry of the outputs is one objective when None.
        :param groups: Positions of inputs that are combined separately; one group of all when None.
        :param need: What will be asked of it.
        :param retain_graph: Whether the graph can be used again after the update.
        """

    @eager
    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to ``parameters``; the graph stays.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :raises ValueError: if they depend on no parameter.
        :raises UnsupportedModelError: if the model cannot be served exactly.
        """
        with self.linearize(checked_losses(losses), retain_graph=True) as lin:
            (gramian,) = lin.gramians()
        if gramian is None:
            raise ValueError(NOTHING_REACHED)
        return gramian

    @eager
    def compute_jacobian(self, losses: Tensor | Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """One ``[m, *parameter.shape]`` per parameter; the graph stays.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :raises UnsupportedModelError: if this engine never forms the Jacobian.
        """
        if "jacobian" not in self.capabilities:
            raise UnsupportedModelError(
                f"the engine {self.name!r} does not form the Jacobian: "
                f"use jd.engine('autojac', …) or jd.engine('chunked', …)"
            )
        parameters, outputs = self.parameters, checked_losses(losses)
        m = sum(output.numel() for output in outputs)
        with self.linearize(outputs, parameters, need="rows", retain_graph=True) as lin:
            return tuple(
                parameter.new_zeros((m, *parameter.shape)) if block is None else block
                for parameter, block in zip(parameters, lin.jacobian(), strict=True)
            )

    @eager
    def backward(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Representation | None = None,
        retain_graph: bool = False,
        process_group: Literal[False] | None = None,
    ) -> Float[Tensor, " m"] | None:
        """Adds the method's update to ``.grad``, as ``losses.backward(weights)`` would.

        Whatever is raised on the way, ``.grad`` is as it was before.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :param method: A weighting or an aggregator.
        :param features: The shared representation: a tensor, or a mapping or a sequence of them.
            Parameters that the losses reach past it, the heads', then get the gradient of the sum
            of the losses instead of the weighted one.
        :param retain_graph: Whether the graph can be used again.
        :param process_group: False if each process of a job trains a model of its own.
        :return: The weights ``[m]``; None if the method has none.
        :raises TypeError: if the method is the name of one, or a scalarizer.
        :raises UnsupportedModelError: if the method, or the engine, cannot serve; or if several
            processes train one model, of which each would only see its own losses.
        """
        _check_method(method)
        check_one_rank(self.name, process_group)
        outputs = checked_losses(losses)
        cut = None
        if features is not None:
            cut = cut_losses(outputs, features, self.parameters, retain_graph)
        values = torch.cat([output.detach().reshape(-1) for output in outputs])
        with (
            without_autocast(),
            linearized(self, method, outputs, cut, retain_graph) as lin,
        ):
            weights, found = update(lin, method, values)
        add_to_grad(*found)
        return weights

    @eager
    def forecast(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Representation | None = None,
    ) -> Forecast:
        """How :meth:`backward` would go about it, and how much memory it would take.

        ``engine="auto"`` asks before the first step, and passes the engine over where it would hold
        more than is free; ``jd.explain`` shows the answer. It looks at the graph alone and changes
        nothing, so that it is cheap. See :meth:`~jdframework.linearization.Linearization.forecast`.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :param method: A weighting or an aggregator.
        :param features: The shared representation, past which parameters belong to heads.
        :raises UnsupportedModelError: if the graph already shows that the engine cannot serve.
        """
        outputs = checked_losses(losses)
        cut = None
        if features is not None:
            cut = foreseen_cut(outputs, features, self.parameters)
        with linearized(self, method, outputs, cut, retain_graph=True) as lin:
            return lin.forecast()

    @eager
    def verify(self, losses: Tensor | Sequence[Tensor], /) -> float:
        """The relative error of ``uᵀGu = ‖Jᵀu‖²`` for one random ``u``; the graph stays.

        The right side is one plain backward pass, so the check needs no other implementation.
        Expect about 1e-6 in float32 and 1e-15 in float64.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """
        return self.identity_error(losses, self.compute_gramian(losses))

    @eager
    def identity_error(
        self,
        losses: Tensor | Sequence[Tensor],
        gramian: Float[Tensor, "m m"],
        *,
        starts: Sequence[Tensor] | None = None,
    ) -> float:
        """The relative error of ``uᵀGu = ‖Jᵀu‖²`` for a given Gramian; the graph stays.

        It is relative to ``‖Jᵀu‖²``, or to ``Σ uᵢ²Gᵢᵢ`` if that is more: the Gramian's entries are
        rounded relative to the gradients' lengths, however well these cancel in ``Jᵀu``. So that a
        mistake does not cancel with them, ``u`` has other signs where they would.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars; or,
            with ``starts``, the features.
        :param gramian: What claims to be theirs.
        :param starts: The derivative of each loss by each feature, ``[m, *feature.shape]``.
        """
        tensors = [losses] if isinstance(losses, Tensor) else list(losses)
        u = torch.randn(
            len(gramian),
            generator=torch.Generator("cpu").manual_seed(0),
            dtype=torch.float64,
            device="cpu",
        )
        # No more than any one objective's, or the sum of many might overflow in half precision.
        u = _not_cancelling(u / u.abs().sum(), gramian).to(torch.float32).to(gramian.device)
        if starts is None:
            weighted = weighted_starts(u, tensors)
        else:
            weighted = [torch.tensordot(u.to(start.dtype), start, dims=1) for start in starts]
        found = gradients(tensors, self.parameters, weighted, retain_graph=True)
        expected = sum(float(as_reals(g).double().square().sum()) for g in found if g is not None)
        claimed = float(u.double() @ gramian.double() @ u.double())
        # Of which the rounding errors are a share, where the gradients cancel in Jᵀu.
        separate = float(u.double().square() @ gramian.double().diagonal())
        scale = max(expected, separate, torch.finfo(torch.float64).tiny)
        return abs(claimed - expected) / scale

    def close(self) -> None:
        """Leaves the model as it was before; the base keeps nothing on it."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        given = self.config.model_dump(exclude_defaults=True)
        settings = "".join(f", {field}={value!r}" for field, value in given.items())
        return f"{type(self).__name__}({len(self.modules)} modules{settings})"


def _not_cancelling(u: Float[Tensor, " m"], gramian: Float[Tensor, "m m"]) -> Float[Tensor, " m"]:
    """``u``; with other signs if ``uᵀGu`` would be small beside ``Σ uᵢ²Gᵢᵢ``."""
    products = u.outer(u) * gramian.to(u)
    if not bool(products.sum() < products.trace() / 2):
        return u
    signs = torch.ones_like(u)
    for i in range(1, len(u)):  # none takes away from the sum of those before it
        if products[i, :i] @ signs[:i] < 0:
            signs[i] = -1
    return u * signs


def unserved(
    modules: Sequence[nn.Module], *, sharded: bool = False, rows: bool = True
) -> str | None:
    """Why no engine can serve the modules, and the remedy; None if one can.

    :param modules: Those whose parameters the objectives share.
    :param sharded: Whether they may be wrapped for distributed training.
    """
    return (None if sharded else _wrapped(modules)) or (None if rows else _complex(modules))


def checked_losses(losses: Tensor | Sequence[Tensor]) -> list[Tensor]:
    """The losses as tensors that can be differentiated.

    :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
    :raises ValueError: if there is none, or one has no graph.
    """
    given = objectives(losses)
    check_differentiable(given)
    return list(given.tensors)


def _complex(modules: Sequence[nn.Module]) -> str | None:
    """Only rows are taken apart into real and imaginary parts."""
    for module in modules:
        for name, parameter in module.named_parameters():
            if parameter.is_complex() and parameter.requires_grad:
                return (
                    f"the parameter {name!r} is complex: use engine='autojac', or keep its real "
                    f"and imaginary part, torch.view_as_real(…), as the parameter instead"
                )
    return None


def _wrapped(modules: Sequence[nn.Module]) -> str | None:
    for module in modules:
        for inner in module.modules():
            wrapper = next(
                (c.__name__ for c in type(inner).__mro__ if c.__name__ in _WRAPPERS), None
            )
            if wrapper is not None:
                return (
                    f"train in one process on the module inside, or by 'sum' or 'mean', which need "
                    f"no engine and keep the wrapper: the model is wrapped by {wrapper}, whose "
                    f"gradient synchronisation an engine would bypass, so that ranks drift apart"
                )
        for name, parameter in module.named_parameters():
            if type(parameter.data).__name__ == "DTensor":
                return (
                    f"train in one process, or by 'sum' or 'mean', which need no engine: the "
                    f"parameter {name!r} is sharded across ranks"
                )
    return None


def _check_method(method: object) -> None:
    if isinstance(method, str | Mapping):
        raise TypeError(
            f"engines take a weighting or an aggregator itself, not {method!r}: "
            f"jd.weighting({method!r}) makes it"
        )
    if isinstance(method, Scalarizer):
        raise TypeError(
            f"{method.name!r} is a scalarizer, which needs no engine: {method.name}(losses)."
            "backward(), or jd.Descent"
        )
