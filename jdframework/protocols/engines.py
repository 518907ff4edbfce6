"""What an engine must be, structurally; :class:`jdframework.bases.Engine` fulfils it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from jdframework.protocols.methods import Configured

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor
    from torch.nn import Parameter

    from jdframework.linearization import Demand, Forecast, Linearization
    from jdframework.linearization.features import Representation


class Engine(Configured, Protocol):
    """Differentiates several objectives, and puts the update into ``.grad``."""

    @property
    def capabilities(self) -> frozenset[str]:
        """A subset of ``{"gramian", "jacobian", "fused", "sharded"}``."""

    @property
    def parameters(self) -> Sequence[Parameter]:
        """The modules' parameters that require gradients now."""

    def compute_gramian(self, losses: Tensor | Sequence[Tensor], /) -> Float[Tensor, "m m"]:
        """The Gramian of the losses with respect to the engine's parameters.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """

    def compute_jacobian(self, losses: Tensor | Sequence[Tensor], /) -> tuple[Tensor, ...]:
        """One ``[m, *parameter.shape]`` per parameter, if the engine can.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """

    def forecast(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Representation | None = None,
    ) -> Forecast:
        """How ``backward`` would go about it, and how much memory it would take.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :param method: A weighting or an aggregator.
        :param features: The shared representation, as for ``backward``.
        """

    def linearize(
        self,
        outputs: Sequence[Tensor],
        inputs: Sequence[Tensor] | None = None,
        *,
        cotangents: Sequence[Tensor] | None = None,
        groups: Sequence[Sequence[int]] | None = None,
        need: Demand = "gramian",
        retain_graph: bool = False,
    ) -> Linearization:
        """The linearization of the outputs at this point; nothing is computed yet.

        :param outputs: Losses, ``m`` entries in all; or, with cotangents, what they depend on.
        :param inputs: With respect to what: the engine's parameters, and what else the outputs
            depend on, when None.
        :param cotangents: What each of ``m`` rows starts from, ``[m, *output.shape]`` per output.
        :param groups: Positions of inputs that are combined separately; one group of all when None.
        :param need: What will be asked of it.
        :param retain_graph: Whether the graph can be used again after the update.
        """

    def backward(
        self,
        losses: Tensor | Sequence[Tensor],
        method: Any,
        /,
        *,
        features: Representation | None = None,
        retain_graph: bool = False,
    ) -> Float[Tensor, " m"] | None:
        """Adds the method's update to ``.grad``, and gives the weights.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        :param method: A weighting or an aggregator.
        :param features: The shared representation; what is past it gets its own plain gradient.
        :param retain_graph: Whether the graph can be used again.
        """

    def verify(self, losses: Tensor | Sequence[Tensor], /) -> float:
        """The relative error of ``uᵀGu = ‖Jᵀu‖²`` for a random ``u``.

        :param losses: A tensor of any shape with ``m`` entries, or a sequence of ``m`` scalars.
        """

    def close(self) -> None:
        """Leaves the model as it was before."""
