"""What methods and engines share: a canonical name, and settings that stay as they were made."""

from __future__ import annotations

import re
from abc import ABCMeta
from typing import Any, ClassVar, Final, cast

from jdframework.config import Config, validated
from jdframework.errors import ConfigError
from jdframework.protocols.entry_points import name_of_class
from jdframework.protocols.names import Kind

_MADE: Final = "_is_made"


class _Sealing(ABCMeta):
    """Seals an instance's settings once its constructor is through, subclasses' parts included."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        vars(made)[_MADE] = True
        return made


class _CanonicalName:
    """The name of the entry point that offers the class, looked up when it is first asked for."""

    def __init__(self) -> None:
        self._found: str | None = None

    def __get__(self, instance: object, owner: type[Configured]) -> str:
        if self._found is None:
            kind = getattr(owner, "kind", None)
            offered = None if kind is None else name_of_class(kind, owner)
            self._found = offered or name_from_class(owner)
        return self._found


class Configured(metaclass=_Sealing):
    """Base of what has a name and settings, which its ``Config`` validates and nothing changes.

    To assign to a setting, or to ``config``, is an error, since what was derived from the setting
    would not follow. State and parameters may share a setting's name, and so may a property with a
    setter, which then says itself what an assignment means.
    """

    kind: ClassVar[Kind]
    """What it is; the bases for each kind set it."""
    name: str
    """The canonical name, by which the registry knows the class."""
    Config: ClassVar[type[Config]] = Config
    """The model of the settings."""
    config: Any
    """The frozen settings, an instance of ``Config``."""
    assignable: ClassVar[frozenset[str]] = frozenset()
    """Settings that may be assigned all the same: each call looks them up anew."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "name" not in vars(cls):
            cast(Any, cls).name = _CanonicalName()

    def __setattr__(self, name: str, value: Any) -> None:
        if not self._is_fixed(name) or value is getattr(self, name, self):
            super().__setattr__(name, value)
        elif name in self.assignable:
            given = {field: getattr(self.config, field) for field in self.config.model_fields_set}
            self._take(name, validated(self.Config, self.name, {**given, name: value}))
        else:
            raise ConfigError(_refusal(self, name))

    def __delattr__(self, name: str) -> None:
        if self._is_fixed(name):
            raise ConfigError(_refusal(self, name))
        super().__delattr__(name)

    def _is_fixed(self, name: str) -> bool:
        """Whether ``name`` is a setting, or all of them, and the constructor is through."""
        if _MADE not in vars(self) or name.startswith("_"):
            return False
        if name == "config":
            return True
        own = getattr(type(self), name, None)
        is_taken_over = isinstance(own, property) and own.fset is not None
        return name in type(self.config).model_fields and not is_taken_over

    def _take(self, name: str, config: Any) -> None:
        """Takes the validated ``config``, in which the assignable setting ``name`` is another."""
        vars(self)["config"] = config


def _refusal(owner: Configured, name: str) -> str:
    cls = type(owner).__name__
    field = "…" if name == "config" else f"{name}=…"
    if owner.kind == "engine":
        made = f"jd.engine({owner.name!r}, …, {field})"
    elif owner.Config is type(owner.config):
        made = f"{cls}({field})"
    else:  # its settings are those of what it was made of
        made = f"jd.{owner.kind}({owner.name!r}, {field})"
    return f"{cls}.{name} cannot be assigned: settings are fixed; make a new one, {made}"


def name_from_class(cls: type) -> str:
    """What a class is called that no entry point names, until it is registered.

    >>> name_from_class(type("InverseNorm", (), {}))
    'inverse-norm'
    """
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()
