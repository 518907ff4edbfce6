"""Which rule serves which operation: ours, and those that installed distributions offer."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from jd_plugin_autogram.offered import offered
from jd_plugin_autogram.operations.base import Operation
from jd_plugin_autogram.operations.convolution import Convolution
from jd_plugin_autogram.operations.elementwise import ELEMENTWISE
from jd_plugin_autogram.operations.lookup import Lookup
from jd_plugin_autogram.operations.normalising import NORMALISING
from jd_plugin_autogram.operations.products import PRODUCTS

GROUP: Final = "jdframework.gramian_operations"
"""The entry-point group by which a distribution offers a rule for nodes of the graph."""

_OURS: Final[tuple[Operation, ...]] = (
    *ELEMENTWISE,
    *PRODUCTS,
    *NORMALISING,
    Convolution(),
    Lookup(),
)


@lru_cache(maxsize=1)
def operations() -> dict[str, Operation]:
    """Every rule by the node's name; an installed one goes before ours."""
    known = (*_OURS, *offered(GROUP, "Gramian operation"))
    return {node: operation for operation in known for node in operation.nodes}


def operation_for(node: str) -> Operation | None:
    """The rule of an operation; None where there is none.

    :param node: The name of autograd's node.
    """
    return operations().get(node)
