"""Grouped: any method, for each group of parameters on its own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Any, ClassVar, Literal, TypeGuard

import torch
from jaxtyping import Float
from pydantic import BeforeValidator, Field, field_validator
from torch import Tensor, nn

from jdframework import registry
from jdframework.bases import Aggregator, WeightedSum, Wrapper, WrapperConfig
from jdframework.errors import ConfigError
from jdframework.linearization.combination import directions_of
from jdframework.protocols import Stateful, TreatsGroups
from jdframework.protocols.names import Need

from jd_plugin_grouped.partition import by_module, by_patterns, by_tensor

__all__ = ["Grouped", "GroupedConfig"]

Patterns = tuple[tuple[str, ...], ...]


def _check_by(by: object) -> object:
    """One sentence for all that it may not be."""
    if by in ("tensor", "module") or (_is_list(by) and all(_is_list_of_names(g) for g in by)):
        return by
    raise ValueError(
        "it is 'tensor', 'module', or a list of groups, each a list of patterns: [['0.*'], ['1.*']]"
    )


def _takes_rows(method: Any) -> bool:
    weighting: Any = method.weighting if isinstance(method, WeightedSum) else method
    return weighting.kind != "weighting" or "jacobian" in weighting.needs


def _is_list(value: object) -> TypeGuard[Sequence[object]]:
    return isinstance(value, list | tuple) and len(value) > 0


def _is_list_of_names(value: object) -> bool:
    return _is_list(value) and all(isinstance(name, str) for name in value)


class GroupedConfig(WrapperConfig):
    """Settings of grouped."""

    by: Annotated[Literal["tensor", "module"] | Patterns, BeforeValidator(_check_by)] = Field(
        "tensor",
        description="What makes a group: each 'tensor', each 'module' with parameters of its own, "
        "or your lists of patterns for parameters' names, one list a group, as in "
        "[['0.*'], ['2.weight', '3.*']]. What no pattern matches is one more group.",
    )
    sizes: tuple[int, ...] | None = Field(
        None,
        description="For use on a matrix, without jd.Descent: how many columns each group has.",
    )

    @field_validator("sizes")
    @classmethod
    def _not_negative(cls, sizes: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if sizes is not None and (not sizes or min(sizes) < 0):
            raise ValueError("it needs at least one group, and none has fewer than 0 columns")
        return sizes


class Grouped(Wrapper, Aggregator):
    """Runs a method for each module, each tensor or each group of your own, in one pass.

    .. math::
        d = (d_1, \\dots, d_k), \\qquad d_j = \\mathcal{A}_j(J_j)
        \\qquad \\text{for } J = (J_1, \\dots, J_k)

    where :math:`J_j` are the columns that belong to the parameters of group :math:`j`, and
    :math:`\\mathcal{A}_j` is that group's own instance of the method ``inner``. One pass
    serves all groups, and each has its own Gramian :math:`J_j J_j^\\top` (of which ``autogram``
    needs no Jacobian, unless ``inner`` does), so gradients that
    conflict in one layer only are changed in that layer only. Layer by layer and matrix by matrix
    is how GradVac was published; LibMTL has it for GradVac alone, and takes the order of the
    modules for that of the parameters.

    There is one weight per objective *and group*, so ``Step.weights`` is None; ``Step.gramian`` is
    that of all parameters. The line is ``jd.Descent(model, "grouped", inner="upgrad",
    by="module")``. Without weights, parameters outside of the modules that the Descent was
    given (heads) need ``features=…``. The state of every group is in ``state_dict()``.

    :param inner: The method: a name, a mapping with settings, or a ready instance, of a weighting
        or an aggregator.
    :param by: What makes a group. Names are those of ``named_parameters()``; of several modules,
        the module's position comes first, as in ``"0.weight"``. In patterns ``*`` stands for any
        text, ``?`` for one character.
    :param sizes: The groups' numbers of columns, for use on a matrix. Without it a matrix is one
        tensor, hence one group.
    :raises ConfigError: if a pattern matches no parameter, or two groups' patterns the same one; if
        ``inner`` needs a cross-gramian, or is itself grouped.

    >>> from jdframework import bases
    >>> class Inverse(bases.GramianWeighting):
    ...     def forward(self, gramian):
    ...         return 1 / gramian.diagonal()
    >>> jacobian = torch.tensor([[1.0, 0.0, 1.0], [0.0, 2.0, 2.0]])
    >>> Grouped(inner=Inverse(), sizes=(2, 1))(jacobian)
    tensor([1.0000, 0.5000, 1.5000])
    """

    Config: ClassVar[type[WrapperConfig]] = GroupedConfig
    config: GroupedConfig
    resolve = staticmethod(partial(registry.method, prefer=("weighting", "aggregator")))

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        if "cross-gramian" in self.inner.needs or isinstance(self.inner, TreatsGroups):
            raise ConfigError(
                f"{self.name}: inner = {self.config.inner!r} was given, but it must be a method of "
                f"one batch's Jacobian or Gramian that is not itself grouped"
            )
        statistic: Need = "jacobian" if _takes_rows(self.inner) else "gramian"
        self.needs = frozenset({statistic} | (self.inner.needs & {"losses"}))
        self.others = nn.ModuleList()
        self._members: list[list[int]] | None = None
        self._blocks = 0

    def wrapped(self) -> Sequence[Any]:
        """The methods of all groups."""
        return [self.inner, *self.others]

    def bind(self, names: Sequence[str], known: Sequence[str]) -> None:
        """See :meth:`jdframework.protocols.TreatsGroups.bind`.

        :raises ConfigError: if the patterns do not divide the parameters into groups.
        """
        rule = self.config.by
        if rule == "tensor":
            groups = by_tensor(known)
        elif rule == "module":
            groups = by_module(known)
        else:
            groups = by_patterns(known, rule)
        self._make_room(len(groups))
        position = {name: i for i, name in enumerate(names)}
        self._members = [[position[n] for n in group if n in position] for group in groups]
        self._blocks = len(names)

    def groups(self, blocks: int) -> Sequence[tuple[Any, Sequence[int]]]:
        """See :meth:`jdframework.protocols.TreatsGroups.groups`.

        :raises ConfigError: if it was not told, or something else, what the blocks belong to.
        """
        members = self._members
        if members is None or self._blocks != blocks:
            if self.config.by != "tensor" or members is not None:
                raise ConfigError(
                    f"{self.name} groups {blocks} blocks of a Jacobian by their parameters' names, "
                    f"which it was not told: use it through jd.Descent(model, 'grouped', …)"
                )
            self._make_room(blocks)
            members = [[i] for i in range(blocks)]
        return list(zip(self.wrapped(), members, strict=True))

    def forward(self, jacobian: Float[Tensor, "m n"], /, **extra: Tensor) -> Float[Tensor, " n"]:
        """The groups' directions, one after the other.

        :raises ConfigError: if ``sizes`` do not add up to the columns, or there are none and the
            groups go by names.
        """
        blocks = self._cut(jacobian)
        self._make_room(len(blocks))
        found = [
            directions_of(method, [block], extra.get("losses"))[0]
            for method, block in zip(self.wrapped(), blocks, strict=True)
        ]
        return torch.cat(found)

    def _cut(self, jacobian: Float[Tensor, "m n"]) -> Sequence[Tensor]:
        sizes = self.config.sizes
        if sizes is None and self.config.by == "tensor":
            return [jacobian]
        if sizes is None:
            raise ConfigError(
                f"{self.name} goes by the names of parameters, which a matrix does not have: use "
                f"it through jd.Descent(model, 'grouped', …), or give the groups' sizes=(…)"
            )
        if sum(sizes) != jacobian.shape[1]:
            raise ConfigError(
                f"{self.name}: sizes = {sizes} was given, which are {sum(sizes)} columns, but the "
                f"matrix has {jacobian.shape[1]}"
            )
        return torch.split(jacobian, list(sizes), dim=1)

    def _make_room(self, groups: int) -> None:
        """Gives each group a method of its own; the first has ``inner``."""
        if len(self.others) == groups - 1:
            return
        if len(self.others):
            raise ConfigError(
                f"{self.name} has methods for {len(self.others) + 1} groups, but now there are "
                f"{groups}: use one instance for each model"
            )
        for _ in range(groups - 1):
            method = copy.deepcopy(self.inner)
            if isinstance(method, Stateful):
                method.reset()
            self.others.append(method)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Makes the saved groups' methods, which torch then loads."""
        start = f"{prefix}others."
        saved = [int(k[len(start) :].split(".")[0]) for k in state_dict if k.startswith(start)]
        if saved:
            self._make_room(max(saved) + 2)
        super()._load_from_state_dict(state_dict, prefix, *arguments)
