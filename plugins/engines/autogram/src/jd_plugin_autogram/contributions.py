"""A use of some parameters, and what it contributes to their rows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from jdframework.autograd.graph import Place
from jdframework.errors import UnsupportedModelError

from jd_plugin_autogram.factors import Factors
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.parameter_uses import Broadcast, ParameterUse
from jd_plugin_autogram.recording import Call
from jd_plugin_autogram.rules import Use, rule_for


class Contribution(ABC):
    """What one use of some parameters contributes to their rows.

    :param edges: The outputs whose gradients are needed.
    :param wanted: The parameters that count.
    """

    def __init__(self, edges: Sequence[GradientEdge], wanted: Sequence[nn.Parameter]) -> None:
        self.edges = list(edges)
        self.wanted = list(wanted)

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Those of the outputs."""
        return [tuple(_metadata(edge).shape) for edge in self.edges]

    @property
    def places(self) -> list[Place]:
        """Where that stands which is made of the parameters."""
        return [(edge.node, edge.output_nr) for edge in self.edges]

    @property
    def nodes(self) -> list[Node]:
        """The nodes whose output's gradient the use counts."""
        return [node for node, _ in self.places]

    @property
    def size(self) -> int:
        """The bytes of the outputs' gradients in one pass."""
        places = [_metadata(edge) for edge in self.edges]
        return sum(math.prod(place.shape) * place.dtype.itemsize for place in places)

    @property
    def needs_graph(self) -> bool:
        """Whether the graph is needed once more after the backward pass."""
        return False

    @abstractmethod
    def saves(self, k: int) -> bool:
        """Whether, for ``k`` losses of one instance, this is cheaper than autograd's own rows."""

    @abstractmethod
    def dims(self, shape: tuple[int, ...]) -> Sequence[int]:
        """The dimensions of an output along which instances may lie."""

    @abstractmethod
    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """What the use contributes.

        :param gradients: ``[k, *shape]`` per edge.
        :param layouts: Where the instances lie in each.
        """


class CallContribution(Contribution):
    """A recorded call of a layer.

    :param call: The record.
    :param edges: Its outputs that the losses depend on, by position.
    :param wanted: The parameters that count.
    """

    def __init__(
        self, call: Call, edges: Mapping[int, GradientEdge], wanted: Sequence[nn.Parameter]
    ) -> None:
        super().__init__(list(edges.values()), wanted)
        self.call = call
        self.positions = tuple(edges)
        """Which of the outputs the losses depend on."""

    def saves(self, k: int) -> bool:
        """What the rule says."""
        return rule_for(self.call.layer).saves(self.call.layer, self.shapes[0], k)

    def dims(self, shape: tuple[int, ...]) -> Sequence[int]:
        """Those that the rule allows."""
        return list(rule_for(self.call.layer).instance_dims(self.call.layer, shape))

    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """What the layer's rule finds."""
        return rule_for(self.call.layer).factors(self.use(gradients, layouts), self.wanted)

    def use(self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]) -> Use:
        """What the layer's rule is given.

        :param gradients: ``[k, *shape]`` per edge.
        :param layouts: Where the instances lie in each.
        :raises UnsupportedModelError: if an input is not any more what it was.
        """
        call = self.call
        places = dict(zip(self.positions, zip(gradients, layouts, strict=True), strict=True))
        given = [places.get(i, (None, None)) for i in range(call.outputs)]
        if call.arguments_changed:
            raise UnsupportedModelError(
                f"an input of the layer {type(call.layer).__name__} was changed in place after the "
                f"layer had used it: use the out-of-place operation"
            )
        known = [(g, x) if g is not None else (None, None) for g, x in given]
        return Use(
            call.layer,
            call.args,
            call.kwargs,
            tuple(g for g, _ in known),
            tuple(x for _, x in known),
            call.training,
            call.nested,
        )


class BroadcastContribution(CallContribution):
    """A call whose output all instances share, such as an embedding of positions.

    :param broadcast: Where its output is added to something that has instances.
    :param call: The record.
    :param wanted: The parameters that count.
    """

    def __init__(self, broadcast: Broadcast, call: Call, wanted: Sequence[nn.Parameter]) -> None:
        super().__init__(call, {0: broadcast.edge}, wanted)
        self._broadcast = broadcast

    @property
    def places(self) -> list[Place]:
        """The call's output."""
        return [self._broadcast.place]

    def dims(self, shape: tuple[int, ...]) -> Sequence[int]:
        """Those along which the output was broadcast."""
        return self._broadcast.dims

    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """What the rule finds for as many losses of one instance as there are objectives."""
        (gradient,), (layout,) = gradients, layouts
        assert gradient is not None
        rows = self._broadcast.rows(gradient, layout)
        return super().factors([rows], [Layout(1)])


class ParameterUseContribution(Contribution):
    """A use of a parameter outside of its layer's call.

    :param use: What was found on the graph.
    """

    def __init__(self, use: ParameterUse) -> None:
        parameter = use.part.parameter
        assert isinstance(parameter, nn.Parameter)
        super().__init__([use.edge], [parameter])
        self._use = use

    def saves(self, k: int) -> bool:
        """What the node says."""
        return self._use.saves(k)

    def dims(self, shape: tuple[int, ...]) -> Sequence[int]:
        """Those that the node allows."""
        return self._use.dims

    def factors(
        self, gradients: Sequence[Tensor | None], layouts: Sequence[Layout]
    ) -> list[Factors]:
        """What the node contributes."""
        (gradient,), (layout,) = gradients, layouts
        assert gradient is not None
        return [self._use.share(gradient, layout)]


def _metadata(edge: GradientEdge) -> Any:
    return edge.node._input_metadata[edge.output_nr]
