"""Jacobian descent and loss scalarization for PyTorch, every method a plugin.

``import jdframework as jd`` loads neither torch nor any plugin; what is used is loaded when it is
first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

__version__ = "0.1.0"

if TYPE_CHECKING:
    from jdframework.descent import (
        Descent,
        Explanation,
        Step,
        backward,
        explain,
        jac,
        jac_to_grad,
        mtl_backward,
    )
    from jdframework.errors import (
        BlockedNameError,
        ConfigError,
        JDError,
        NameConflictError,
        NonFiniteError,
        PluginLoadError,
        SolverError,
        UnknownNameError,
        UnsupportedModelError,
    )
    from jdframework.registry import (
        Method,
        aggregator,
        available,
        describe,
        engine,
        register,
        scalarizer,
        unregister,
        weighting,
    )

_ROOMS: Final = ("errors", "registry", "descent")
"""Where the public names live; what loads torch comes last."""
_SUBMODULES: Final = frozenset(
    {"bases", "config", "errors", "hooks", "linalg", "linearization", "protocols", "testing"}
)

__all__ = [
    "BlockedNameError",
    "ConfigError",
    "Descent",
    "Explanation",
    "JDError",
    "Method",
    "NameConflictError",
    "NonFiniteError",
    "PluginLoadError",
    "SolverError",
    "Step",
    "UnknownNameError",
    "UnsupportedModelError",
    "__version__",
    "aggregator",
    "available",
    "backward",
    "describe",
    "engine",
    "explain",
    "jac",
    "jac_to_grad",
    "mtl_backward",
    "register",
    "scalarizer",
    "unregister",
    "weighting",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name in _SUBMODULES:
        return importlib.import_module(f"jdframework.{name}")
    if name in __all__:
        for room in _ROOMS:
            module = importlib.import_module(f"jdframework.{room}")
            if hasattr(module, name):
                value = globals()[name] = getattr(module, name)
                return value
    raise AttributeError(f"module 'jdframework' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
