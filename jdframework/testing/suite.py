"""The base of all suites: how a spec becomes an instance, and what every plugin must keep."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import pytest

import jdframework as jd
from jdframework import registry
from jdframework.bases import mistakes
from jdframework.protocols.names import Kind
from jdframework.testing.overrides import check_overrides

_OWN_PACKAGE: Final = "jdframework.testing."
_unusable: Final[set[type]] = set()


class Suite:
    """Base of the suites. Subclass one of those, not this.

    An override of one of its tests is refused unless it is marked xfail with a reason.
    """

    kind: ClassVar[Kind]
    """What the suite tests; set by those for each kind."""
    spec: ClassVar[str | Mapping[str, Any] | type]
    """What is tested: a name, a mapping ``{"name": …, **config}``, or a class."""
    config: ClassVar[Mapping[str, Any]] = {}
    """Settings for all tests, where the method needs some."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if cls.__module__.startswith(_OWN_PACKAGE):
            return
        own = (base for base in cls.__mro__ if base.__module__.startswith(_OWN_PACKAGE))
        check_overrides(cls, tuple(base for base in own if issubclass(base, Suite)))

    @pytest.fixture(autouse=True)
    def _spec_is_usable(self) -> None:
        """A spec that gives no instance fails the suite's first test, and not each of them."""
        if type(self) in _unusable:
            pytest.skip("not run: the spec gives no instance, as the first test's failure says")
        try:
            self._adopt_claims()
            self.make()
        except Exception:
            _unusable.add(type(self))
            raise

    def _adopt_claims(self) -> None:
        """What the method's class claims holds where the test class itself says nothing."""
        cls = type(self)
        own = [base for base in cls.__mro__ if not base.__module__.startswith(_OWN_PACKAGE)]
        for claim, value in self.implementation().claims.items():
            if not any(hasattr(suite, claim) for suite in _every_suite()):
                raise TypeError(
                    f"{self.implementation().__name__} claims {claim!r}: no suite has it"
                )
            if hasattr(cls, claim) and not any(claim in vars(base) for base in own):
                setattr(cls, claim, value)

    def implementation(self) -> type[Any]:
        """The class that ``spec`` means."""
        spec = getattr(self, "spec", None)
        if isinstance(spec, type):
            return spec
        name = spec if isinstance(spec, str) else dict(spec or {}).get("name")
        if not isinstance(name, str):
            raise TypeError(
                f"{type(self).__name__} needs the class attribute spec: a name, a mapping with "
                f"'name', or a class; not {spec!r}"
            )
        cls: type[Any] = registry.resolve(self.resolved_kind(name), name)
        return cls

    def resolved_kind(self, name: str) -> Kind:
        """Under which kind ``name`` is looked up."""
        return self.kind

    def settings(self, **changes: Any) -> dict[str, Any]:
        """The settings of the tested instances; a method that takes a seed gets one."""
        spec = self.spec
        given = dict(spec) if isinstance(spec, Mapping) else {}
        given.pop("name", None)
        seed = {"seed": 0} if self.is_seeded() else {}
        return {**seed, **given, **self.config, **changes}

    def is_seeded(self) -> bool:
        """Whether the method takes a seed."""
        return "seed" in self.implementation().Config.model_fields

    def make(self, **changes: Any) -> Any:
        """A fresh instance.

        :param changes: Settings that differ from those of ``spec`` and ``config``.
        """
        return self.implementation()(**self.settings(**changes))

    def test_the_class_is_usable(self) -> None:
        """The class derives from its kind's base, and its needs and paper are what they must be."""
        found = mistakes(self.implementation(), self.kind_of_class())
        assert not found, "; ".join(found)

    def kind_of_class(self) -> Kind:
        """The kind of the class that ``spec`` means."""
        kind: Kind = self.implementation().kind
        return kind

    def test_the_name_resolves_and_describes_the_method(self) -> None:
        """The name gives an instance, and what ``jd show`` prints has a summary."""
        if isinstance(self.spec, type):
            pytest.skip("not applicable: the spec is a class, not a name")
        name = self.spec if isinstance(self.spec, str) else self.spec["name"]
        method = jd.describe(name, self.kind)
        assert method.summary, f"{name}: the class has no docstring whose first line sums it up"
        assert method.name in jd.available(self.resolved_kind(name))

    def test_each_setting_is_described(self) -> None:
        """Every field of ``Config`` has a description for ``jd show`` and the documentation."""
        fields = self.implementation().Config.model_fields
        silent = [name for name, field in fields.items() if not field.description]
        assert not silent, f"these settings have no description: {', '.join(silent)}"

    def test_settings_survive_json(self) -> None:
        """``config.model_dump_json()`` gives the same settings back."""
        config = self.make().config
        restored = self.make(**json.loads(config.model_dump_json())).config
        assert restored == config, f"{config!r} became {restored!r} on its way through JSON"

    def test_settings_are_frozen(self) -> None:
        """A setting cannot be changed after the instance was made."""
        config = self.make().config
        for name in type(config).model_fields:
            with pytest.raises(ValueError, match="frozen"):
                setattr(config, name, None)

    def test_an_unknown_setting_is_refused(self) -> None:
        """A misspelt setting raises ``ConfigError`` that names it."""
        with pytest.raises(jd.ConfigError, match="no_such_setting"):
            self.make(no_such_setting=1)


def _every_suite() -> Iterator[type[Suite]]:
    """The suites of the framework, also those that no test has imported."""
    for module in ("aggregator", "engine", "scalarizer", "weighting"):
        importlib.import_module(f"{_OWN_PACKAGE}{module}")
    found: list[type[Suite]] = [Suite]
    for base in found:
        yield base
        found += [cls for cls in base.__subclasses__() if cls.__module__.startswith(_OWN_PACKAGE)]
