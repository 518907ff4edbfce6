"""Combining the factors of a parameter that is used several times."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from jdframework.linalg.products import products

from jd_plugin_autogram.factors.base import Factors, Rows, at_least_float32
from jd_plugin_autogram.factors.product import Product
from jd_plugin_autogram.factors.slices import SliceFactors
from jd_plugin_autogram.factors.tokens import TokenRows


class Tied(Factors):
    """A table that embeds tokens and multiplies, too, as a language model's output head does.

    :param product: The head's factors.
    :param looked_up: The embedding's.
    """

    def __init__(self, product: Product, looked_up: TokenRows) -> None:
        super().__init__(product.parameter)
        self._product, self._looked_up = product, looked_up

    def gramian(self) -> Float[Tensor, "m m"]:
        """Both, and twice the part across, for which the head's rows of the tokens suffice."""
        product, tokens = self._product, self._looked_up.tokens
        across = at_least_float32(product.rows_of(tokens).flatten(1))
        across = products(across, at_least_float32(self._looked_up.block.flatten(1)))
        return product.gramian() + self._looked_up.gramian() + across + across.T

    def gradient(self, weights: Float[Tensor, " m"]) -> Tensor:
        """``wᵀP`` of the product and of the rows that were looked up, added."""
        return self._product.gradient(weights) + self._looked_up.gradient(weights)

    def rows(self) -> Float[Tensor, "m *shape"]:
        """The rows of the product, and those that were looked up, added."""
        return self._product.rows() + self._looked_up.rows()

    def scale(self, factors: Float[Tensor, " m"]) -> None:
        """Scales both parts."""
        self._product.scale(factors)
        self._looked_up.scale(factors)

    def reaches(self, rows: Int[Tensor, " r"]) -> Bool[Tensor, ""]:
        """Whether either part reaches one of the rows."""
        return self._product.reaches(rows) | self._looked_up.reaches(rows)


def combined(factors: Sequence[Factors]) -> list[Factors]:
    """Factors of one parameter that have no rows in common, from all of its factors.

    Different parts of a parameter never overlap here, but a part and the whole do.
    """
    if len(factors) == 1:
        return [*factors]
    by_place: dict[int | None, list[Factors]] = {}
    for factor in factors:
        place = factor.start if isinstance(factor, SliceFactors) else None
        by_place.setdefault(place, []).append(factor)
    if None in by_place and len(by_place) > 1:
        return [_added(factors)]
    return [_joined(several) for several in by_place.values()]


def _joined(factors: Sequence[Factors]) -> Factors:
    """One for several on one parameter, or on the same part of one."""
    first = factors[0]
    if len(factors) == 1:
        return first
    if isinstance(first, SliceFactors):
        parts = [factor.part for factor in factors if isinstance(factor, SliceFactors)]
        return SliceFactors(first.parameter, _joined(parts), first.start)
    products = [p for p in factors if isinstance(p, Product) and p.swapped is False]
    looked_up = [p for p in factors if isinstance(p, TokenRows)]
    if len(products) == len(factors):
        return _longer(products)
    if len(looked_up) == len(factors):
        return _merged(looked_up)
    if len(products) + len(looked_up) == len(factors):
        return Tied(_longer(products), _merged(looked_up))
    return _added(factors)


def _added(factors: Sequence[Factors]) -> Rows:
    """Factors that are added as rows, for they have no other form in common."""
    total = factors[0].rows()
    for factor in factors[1:]:
        total = total + factor.rows()
    return Rows(factors[0].parameter, total)


def _longer(products: Sequence[Product]) -> Product:
    """The uses one after the other, as if they were positions."""
    if len(products) == 1:
        return products[0]
    inputs = torch.cat([product.inputs for product in products], dim=1)
    gradients = torch.cat([product.gradients for product in products], dim=2)
    return Product(products[0].parameter, inputs, gradients)


def _merged(several: Sequence[TokenRows]) -> TokenRows:
    """The rows of the tokens that occur in any of them."""
    if len(several) == 1:
        return several[0]
    tokens, places = torch.unique(torch.cat([p.tokens for p in several]), return_inverse=True)
    blocks = torch.cat([factor.block for factor in several], dim=1)
    merged = blocks.new_zeros((len(blocks), len(tokens), blocks.shape[2]))
    return TokenRows(several[0].parameter, tokens, merged.index_add_(1, places, blocks))
