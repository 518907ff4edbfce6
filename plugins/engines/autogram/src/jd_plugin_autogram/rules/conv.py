"""Convolutions and transposed convolutions, in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from jd_plugin_autogram.choice import ghost_is_cheaper
from jd_plugin_autogram.pieces import Piece, Rows
from jd_plugin_autogram.rules.base import Rule, Use
from jd_plugin_autogram.rules.products import Ghost, wanted_or_none


class GroupedGhost(Piece):
    """The ghost form of a weight whose channel groups do not mix.

    :param weight: ``[g·p, d]`` up to a reshape.
    :param inputs: ``[m, g, T, d]``.
    :param outputs: ``[m, g, T, p]``.
    """

    def __init__(
        self, weight: Tensor, inputs: Float[Tensor, "m g T d"], outputs: Float[Tensor, "m g T p"]
    ) -> None:
        super().__init__([weight])
        rows = weight.reshape(inputs.shape[1], outputs.shape[3], inputs.shape[3])
        self._groups = [
            Ghost(part, inputs[:, i], outputs[:, i]) for i, part in enumerate(rows.unbind())
        ]

    def gramian(self) -> Float[Tensor, "m m"]:
        """The sum over the groups."""
        return torch.stack([group.gramian() for group in self._groups]).sum(0)

    def gradients(self, weights: Float[Tensor, " m"]) -> list[Tensor]:
        """The groups' gradients, one after the other."""
        parts = [group.gradients(weights)[0] for group in self._groups]
        return [torch.stack(parts).reshape(self.parameters[0].shape)]


class Convolution(Rule):
    """``y = W * x + b``: a linear layer over the unfolded patches of ``x``, group by group."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def pieces(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Piece]:
        """The cheaper of the ghost form and the rows, and the bias."""
        weight = wanted_or_none(use.layer.weight, wanted)
        pieces: list[Piece] = [] if weight is None else [_weight_piece(weight, *self._factors(use))]
        bias = wanted_or_none(use.layer.bias, wanted)
        return pieces if bias is None else [*pieces, Rows([bias], [_bias_rows(use)])]

    def rows(self, use: Use, wanted: Sequence[nn.Parameter]) -> list[Tensor]:
        """``Σ_t B_t A_tᵀ`` and ``Σ_t B_t``."""
        return [
            _weight_rows(p, *self._factors(use)) if p is use.layer.weight else _bias_rows(use)
            for p in wanted
        ]

    def _factors(self, use: Use) -> tuple[Tensor, Tensor]:
        layer = use.layer
        patches = _patches(_padded(use.inputs[0], layer), layer)
        outputs = _positions(_images(use.gradient, use.shared), layer.groups)
        return _by_objective(patches, use, shared=use.shared), _by_objective(outputs, use)


class TransposedConvolution(Convolution):
    """The adjoint of a convolution: the roles of input and output gradient are swapped."""

    layers: ClassVar[tuple[type[nn.Module], ...]] = (
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )

    def _factors(self, use: Use) -> tuple[Tensor, Tensor]:
        layer, inputs = use.layer, use.inputs[0]
        padding = [side for p in reversed(layer.padding) for side in (p, p)]
        gradient = functional.pad(_images(use.gradient, use.shared), padding)
        crop = tuple(slice(0, size) for size in inputs.shape[2:])
        outputs = _positions(inputs, layer.groups)
        return (
            _by_objective(_patches(gradient, layer, crop), use),
            _by_objective(outputs, use, shared=use.shared),
        )


def _weight_piece(weight: Tensor, inputs: Tensor, outputs: Tensor) -> Piece:
    if inputs.ndim == outputs.ndim == 4:
        m, _, length, d = inputs.shape
        if ghost_is_cheaper(m, length, d, outputs.shape[3]):
            return GroupedGhost(weight, inputs, outputs)
    return Rows([weight], [_weight_rows(weight, inputs, outputs)])


def _weight_rows(weight: Tensor, inputs: Tensor, outputs: Tensor) -> Tensor:
    """``Σ_t B_t A_tᵀ``; one of the two may lack the dimension of objectives."""
    a, b = "mgtd"[-inputs.ndim :], "mgtp"[-outputs.ndim :]
    return torch.einsum(f"{b},{a}->mgpd", outputs, inputs).reshape(-1, *weight.shape)


def _bias_rows(use: Use) -> Tensor:
    gradient = use.gradient.sum(1) if use.shared else use.gradient
    return gradient.flatten(2).sum(2)


def _images(gradient: Tensor, shared: bool) -> Tensor:
    """``[m, n, C, …]`` as one batch, which ``[m, C, …]`` is already."""
    return gradient.flatten(0, 1) if shared else gradient


def _positions(tensor: Tensor, groups: int) -> Float[Tensor, "n g T c"]:
    """``[n, g·c, *positions]`` with the positions before the channels."""
    return tensor.reshape(len(tensor), groups, tensor.shape[1] // groups, -1).mT


def _by_objective(tensor: Float[Tensor, "n g T c"], use: Use, *, shared: bool = False) -> Tensor:
    """``[m, g, T, c]`` with the batch among the positions where tasks share it.

    :param shared: Whether the tensor is the same for all objectives; the result is ``[g, T, c]``.
    """
    if not use.shared:
        return tensor
    m = 1 if shared else len(use.gradient)
    _, groups, _, channels = tensor.shape
    joined = tensor.reshape(m, -1, *tensor.shape[1:]).transpose(1, 2)
    joined = joined.reshape(m, groups, -1, channels)
    return joined[0] if shared else joined


def _padded(inputs: Tensor, layer: Any) -> Tensor:
    sides = layer._reversed_padding_repeated_twice
    if not any(sides):
        return inputs
    if layer.padding_mode == "zeros":
        return functional.pad(inputs, sides)
    return functional.pad(inputs, sides, mode=layer.padding_mode)


def _patches(padded: Tensor, layer: Any, crop: tuple[slice, ...] = ()) -> Float[Tensor, "n g T d"]:
    """What each output position of a convolution sees, ``d`` running over channels and kernel."""
    dimensions = len(layer.kernel_size)
    view = padded
    for axis, (size, step, gap) in enumerate(
        zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    ):
        view = view.unfold(2 + axis, (size - 1) * gap + 1, step)[..., ::gap]
    view = view[(slice(None), slice(None), *crop)]
    n, channels = view.shape[:2]
    groups = layer.groups
    view = view.reshape(n, groups, channels // groups, *view.shape[2:])
    positions = range(3, 3 + dimensions)
    kernel = range(3 + dimensions, 3 + 2 * dimensions)
    ordered = view.permute(0, 1, *positions, 2, *kernel)
    length = ordered.shape[2 : 2 + dimensions].numel()
    return ordered.reshape(n, groups, length, -1)
