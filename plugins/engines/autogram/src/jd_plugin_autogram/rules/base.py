"""What a rule is given, and what it gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from jd_plugin_autogram.factors import Factors, Rows
from jd_plugin_autogram.layout import Layout
from jd_plugin_autogram.recording import Call


@dataclass
class Use:
    """One call of a layer, seen from the objectives.

    There are ``n`` independent instances with ``k`` losses each; row ``i·k + a`` of the Jacobian
    belongs to loss a of instance i. Where each objective depends on the whole batch, the batch is
    one instance.
    """

    layer: Any
    """The layer, of one of the rule's types."""
    inputs: tuple[Any, ...]
    """The positional arguments."""
    kwargs: dict[str, Any]
    gradients: tuple[Tensor | None, ...]
    """``[k, *shape]`` per output that requires a gradient: of loss a of every instance at once."""
    layouts: tuple[Layout | None, ...]
    """Where the instances lie in each output."""
    training: bool
    """Whether the layer was in training mode at the call."""
    nested: bool
    """Whether one output was computed from another, whose gradient then is whole."""

    @property
    def input(self) -> Tensor:
        """The first argument, however it was given."""
        found: Tensor = (
            self.inputs[0]
            if self.inputs
            else self.kwargs.get("input", next(iter(self.kwargs.values())))
        )
        return found

    @property
    def gradient(self) -> Float[Tensor, "k *shape"]:
        """That of the only output."""
        gradient = self.gradients[0]
        assert gradient is not None
        return gradient

    @property
    def layout(self) -> Layout:
        """That of the only output, and of inputs whose leading dimensions are the same."""
        layout = self.layouts[0]
        assert layout is not None
        return layout

    def input_positions(self, tensor: Tensor, features: int = 1) -> Float[Tensor, "n T *features"]:
        """A tensor that lies as the output does, by instance and position.

        :param tensor: Of as many dimensions as the output.
        :param features: How many dimensions at the end are no positions.
        """
        if tensor.is_floating_point():  # as autocast did in the call
            tensor = tensor.to(self.gradient.dtype)
        split = self.layout.split(tensor)
        return split.reshape(len(split), -1, *tensor.shape[tensor.ndim - features :])

    def gradient_positions(self, features: int = 1) -> Float[Tensor, "k n T *features"]:
        """The gradient of the only output, by loss, instance and position.

        :param features: How many dimensions at the end are no positions.
        """
        gradient = self.gradient
        split = self.layout.split(gradient, leading=1)
        shape = gradient.shape[gradient.ndim - features :]
        return split.reshape(*split.shape[:2], -1, *shape)


class Rule:
    """How layers of some types contribute. Stateless; one instance serves all layers.

    A rule overrides :meth:`rows`, or, where there is something cheaper, :meth:`factors`.
    """

    layers: ClassVar[tuple[type[nn.Module], ...]]
    """The layer types, not their subclasses."""
    parameters: ClassVar[frozenset[str] | None] = None
    """The names of the parameters that the rule knows; None if it takes them as they come."""
    cuts: ClassVar[bool] = False
    """Whether it knows that, where one output was computed from another, the gradient of the other
    is already whole."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        given = cls.rows is not Rule.rows or cls.factors is not Rule.factors
        if hasattr(cls, "layers") and not given:
            raise TypeError(f"the Gramian rule {cls.__name__} defines neither rows nor factors")

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """The rows of the Jacobian, ``[n·k, *shape]`` per wanted parameter.

        Only asked of rules without :meth:`factors` of their own.
        """
        raise NotImplementedError  # a rule without either cannot be defined

    def factors(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Factors]:
        """The same in the cheapest form, one factor or more per parameter.

        They are the rows themselves unless the rule knows better.
        """
        return [Rows(p, block) for p, block in zip(wanted, self.rows(use, wanted), strict=True)]

    def instance_dims(self, layer: Any, shape: Sequence[int]) -> Iterable[int]:
        """The dimensions of an output along which the layer treats instances alike.

        :param layer: The layer.
        :param shape: The output's shape.
        """
        return range(1)

    def saves(self, layer: Any, shape: Sequence[int], k: int) -> bool:
        """Whether, for ``k`` losses of the whole batch, this beats autograd's own rows.

        :param layer: The layer.
        :param shape: The output's shape.
        :param k: How many losses there are.
        """
        return False

    def joins(self, call: Call) -> bool:
        """Whether calls may be taken for one on a longer batch.

        Their arguments and outputs are put together along the first dimension, whose entries the
        layer has to treat one by one.

        :param call: One that the rule serves.
        """
        return False

    def serves(self, call: Call) -> bool:
        """Whether the rule is exact for this call.

        Where it is not, the layer is differentiated by autograd, an objective at a time.
        """
        return True
