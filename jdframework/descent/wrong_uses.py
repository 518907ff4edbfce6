"""Refuses common mistakes in the arguments of ``Descent``, with the line that was meant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from torch import nn
from torch.optim import Optimizer

from jdframework.errors import ConfigError

_OWN: Final = ("batch_dim", "engine", "on", "on_nonfinite", "process_group")
"""The keywords of a Descent that are not the method's."""


def check_modules(modules: object, method: object) -> None:
    """Refuses what is given in place of modules, with the line that was meant.

    :param modules: What was given first.
    :param method: What was given second.
    :raises ConfigError: if it is an optimizer, or the two are exchanged.
    """
    if isinstance(modules, Optimizer):
        raise ConfigError(
            "an optimizer was given in place of the model: jd.Descent(model, …) fills .grad, and "
            "optimizer.step() goes on as ever"
        )
    if isinstance(modules, str | Mapping) and isinstance(method, nn.Module | Sequence):
        raise ConfigError(
            f"the model goes first, and then the method: jd.Descent(model, {modules!r})"
        )


def check_method(method: object) -> None:
    """Refuses what is given in place of a method's spec, with the line that was meant.

    :param method: What was given.
    :raises ConfigError: if it is a class, or a method of torchjd.
    """
    if isinstance(method, type):
        raise ConfigError(
            f"the class {method.__name__} was given, but an instance is needed: "
            f"{method.__name__}(…), or the method's name"
        )
    if type(method).__module__.partition(".")[0] == "torchjd":
        name = type(method).__name__.removesuffix("Weighting")
        raise ConfigError(
            f"torchjd's {type(method).__name__} was given, but jd.Descent takes methods of "
            f"jdframework: 'Migrating from torchjd' in the documentation lists their names, as in "
            f"jd.Descent(model, {name.lower()!r})"
        )


def check_keywords(config: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Refuses a keyword that is nearly one of Descent's own.

    :param config: What was taken for the method's settings.
    :param fields: The settings that the method has.
    :raises ConfigError: naming the keyword that was meant.
    """
    known = set(fields)
    for keyword in config:
        close = get_close_matches(keyword.replace("_", ""), _SQUEEZED, n=1, cutoff=0.8)
        if keyword not in known and close:
            raise ConfigError(
                f"{keyword} = {config[keyword]!r} was given, which is no setting of the method: "
                f"did you mean {_SQUEEZED[close[0]]}={config[keyword]!r}?"
            )


_SQUEEZED: Final = {keyword.replace("_", ""): keyword for keyword in _OWN}
