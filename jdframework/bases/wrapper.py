"""Bases of methods that wrap another method, which is given as a spec."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from jdframework.bases.method import BaseMethod
from jdframework.bases.weighting import Weighting, at_least_float32, working_dtype
from jdframework.config import Config, Spec
from jdframework.errors import ConfigError
from jdframework.protocols import ActsAfterUpdate, HasEpochs, Stateful, TakesBatches


class WrapperConfig(Config):
    """Settings of a method that wraps another one."""

    inner: Spec = Field(
        description="The method that is wrapped: a name, a mapping {'name': …, **config}, or a "
        "ready instance.",
        examples=["upgrad"],
    )


class Wrapper(BaseMethod, ABC):
    """Mix-in of a method that wraps another one.

    The wrapped method is the submodule ``inner``, so that its state and its parameters are also
    the wrapper's. An instance needs what its inner method needs; the class, which has none, says
    what most need. ``config.inner`` is a spec that survives JSON, for a ready instance too.
    """

    Config: ClassVar[type[Any]] = WrapperConfig

    inner: Any
    """The method that is wrapped."""

    def __init__(self, **config: Any) -> None:
        inner: Any = None
        if "inner" in config:
            inner = self._resolved(config["inner"])
            config["inner"] = spec_of(inner)
        super().__init__(**config)
        self.inner = inner
        self.needs = inner.needs
        if isinstance(inner, TakesBatches):
            self.independent_batches = inner.independent_batches
            """Those of what is wrapped, if it says which."""

    @staticmethod
    @abstractmethod
    def resolve(spec: Any, /) -> Any:
        """The instance that ``spec`` means: ``staticmethod(jd.weighting)``, say."""

    def wrapped(self) -> Sequence[Any]:
        """Every instance that is wrapped."""
        return [self.inner]

    def reset(self) -> None:
        """Makes what is wrapped forget earlier steps."""
        for method in self.wrapped():
            if isinstance(method, Stateful):
                method.reset()

    def after_update(self, losses: Float[Tensor, " m"], /) -> None:
        """Tells what is wrapped ``losses`` after the optimizer's step, if it wants them."""
        for method in self.wrapped():
            if isinstance(method, ActsAfterUpdate):
                method.after_update(losses)

    def end_epoch(self) -> None:
        """Tells what is wrapped that an epoch is over, if it wants to know."""
        for method in self.wrapped():
            if isinstance(method, HasEpochs):
                method.end_epoch()

    def _resolved(self, spec: Any) -> Any:
        try:
            return self.resolve(spec)
        except ConfigError as error:
            raise ConfigError(f"{self.name}: inner = {spec!r} was given, but {error}") from None


class WeightingWrapper(Wrapper, Weighting, ABC):
    """Base of a weighting that wraps another one and takes the statistic that this one takes.

    ``forward`` receives a Gramian, or the Jacobian, as the inner weighting would, which checks it.
    """

    needs = frozenset({"gramian"})

    def __call__(self, statistic: Float[Tensor, "m _"], /, **extra: Tensor) -> Float[Tensor, " m"]:
        """The weights.

        :param statistic: What the inner weighting needs: ``[m, m]``, or the Jacobian ``[m, n]``.
        :param extra: What else it needs, by name: ``losses`` ``[m]``.
        :raises ValueError: if the inner weighting does not take a statistic of this shape.
        """
        if "jacobian" in self.needs:
            return self._weights(statistic, at_least_float32(statistic.dtype), extra)
        return self._weights(statistic, working_dtype(statistic.device), extra)


def spec_of(method: Any) -> Spec:
    """The spec that makes an instance like ``method``: its name, or a mapping with its settings."""
    name: str = method.name
    settings = method.config.model_dump(mode="json", exclude_defaults=True)
    return {"name": name, **settings} if settings else name
