"""``jd.Descent``, the pipeline of its step, ``jd.explain`` and the functional interface.

In: modules, a method's spec, losses. Out: ``.grad`` and a ``Step``. ``descent`` is the file to read
first.
"""

from __future__ import annotations

from jdframework.descent.descent import Descent
from jdframework.descent.explanation import Explanation, explain
from jdframework.descent.functional import backward, jac, jac_to_grad, mtl_backward
from jdframework.descent.step import Step

__all__ = [
    "Descent",
    "Explanation",
    "Step",
    "backward",
    "explain",
    "jac",
    "jac_to_grad",
    "mtl_backward",
]
