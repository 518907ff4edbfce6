"""One plugin's folder: what is particular to it, and the files that are rendered from that.

A plugin offers methods or engines, or it is an application: one of the family ``apps``, which adds
commands to ``jd``, or which other applications share.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import typer
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from jdframework.cli.applications import Application
from jdframework.protocols.entry_points import ALIAS_GROUPS, GROUPS, HOOK_GROUP
from jdframework.protocols.names import KINDS, Kind, is_canonical, key
from jdframework.registry.directory import Published
from jdframework.registry.discovery import KERNEL

PREFIX: Final = "jd-plugin-"
DEFAULT_ENGINE: Final = "jd-plugin-autojac"
"""Serves every method that looks at gradients."""
GRAMIAN_ENGINE: Final = "jd-plugin-autogram"
"""Serves those that look at the Gramian alone at a fraction of that cost."""
APPLICATIONS: Final = "apps"
"""The family of the applications."""

_GROUP_ORDER: Final = (*GROUPS.values(), *ALIAS_GROUPS.values(), HOOK_GROUP)
_KEPT: Final[dict[str, frozenset[str]]] = {
    "": frozenset({"build-system", "project", "tool"}),
    "project.": frozenset(
        {"name", "version", "description", "readme", "requires-python", "license", "authors"}
        | {"dependencies", "optional-dependencies", "entry-points"}
    ),
    "tool.": frozenset({"flit", "jdframework"}),
    "tool.flit.": frozenset({"module", "sdist"}),
    "tool.jdframework.": frozenset({"example", "recommended"}),
}
"""The keys that the template has a place for, by the table's path."""


class MetadataError(ValueError):
    """A plugin's own metadata cannot be used."""


@dataclass(frozen=True)
class Kernel:
    """What every plugin takes over from the kernel's distribution."""

    version: str
    build_requires: list[str]
    build_backend: str
    requires_python: str
    license: str
    authors: list[dict[str, str]]

    @classmethod
    def read(cls, root: Path) -> Kernel:
        """The kernel of the repository at ``root``."""
        metadata = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))
        project, build = metadata["project"], metadata["build-system"]
        source = (root / "jdframework" / "__init__.py").read_text("utf-8")
        version = re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE)
        if version is None:
            raise MetadataError('jdframework/__init__.py has no line __version__ = "…"')
        return cls(
            version=version[1],
            build_requires=build["requires"],
            build_backend=build["build-backend"],
            requires_python=project["requires-python"],
            license=project["license"],
            authors=project["authors"],
        )

    def requirement(self, distribution: str) -> str:
        """``distribution`` in the releases that go with this kernel.

        >>> Kernel("1.4.2", [], "", "", "", []).requirement("jdframework[testing]")
        'jdframework[testing]>=1.4.2,<1.5'
        """
        major, minor = self.version.split(".")[:2]
        return f"{distribution}>={self.version},<{major}.{int(minor) + 1}"


@dataclass(frozen=True)
class Plugin:
    """What is particular to one plugin; everything else in its metadata is rendered."""

    folder: Path
    description: str
    entry_points: Mapping[str, Mapping[str, str]]
    kernel: str
    """The kernel, with the extras that it needs of it."""
    siblings: tuple[str, ...]
    """The distributions of this repository that it says it needs."""
    dependencies: tuple[str, ...]
    """What it needs of others."""
    optional_dependencies: Mapping[str, list[str]]
    example: Mapping[str, Any]
    """Settings for the example in its README, where the defaults do not suffice."""
    recommended: bool
    """Whether ``pip install "jdframework[recommended]"`` brings it."""

    @classmethod
    def read(cls, folder: Path) -> Plugin:
        """The plugin in ``folder``.

        :raises MetadataError: if its ``pyproject.toml`` cannot be read, lacks something, or has
            something that rendering would lose.
        """
        try:
            metadata = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        except (OSError, tomllib.TOMLDecodeError) as error:
            raise MetadataError(str(error)) from error
        project, tool = metadata.get("project", {}), metadata.get("tool", {})
        _refuse_what_would_be_lost(metadata)
        groups = project.get("entry-points", {})
        offers = folder.parent.name == APPLICATIONS or not groups.keys().isdisjoint(GROUPS.values())
        if not project.get("description") or not offers:
            raise MetadataError(
                f"[project] needs a description, and entry points in {' or '.join(GROUPS.values())}"
            )
        own, foreign = _divided(project.get("dependencies", []), folder)
        particular = tool.get("jdframework", {})
        plugin = cls(
            folder=folder,
            description=project["description"].rstrip("."),
            entry_points=_in_order(groups),
            kernel=next((name for name in own if _is_kernel(name)), KERNEL),
            siblings=tuple(name for name in own if not _is_kernel(name)),
            dependencies=foreign,
            optional_dependencies=project.get("optional-dependencies", {}),
            example=particular.get("example", {}),
            recommended=particular.get("recommended", False),
        )
        plugin._check_names()
        return plugin

    @property
    def name(self) -> str:
        """The folder's name, which the distribution's and the module's names are made of."""
        return self.folder.name

    @property
    def distribution(self) -> str:
        """The name to ``pip install``."""
        return PREFIX + self.name

    @property
    def module(self) -> str:
        """The name to ``import``."""
        return self.distribution.replace("-", "_")

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds of what it offers."""
        return tuple(kind for kind in KINDS if GROUPS[kind] in self.entry_points)

    def names(self) -> dict[Kind, list[str]]:
        """What it offers, without the aliases."""
        return {kind: list(self.entry_points[GROUPS[kind]]) for kind in self.kinds}

    def own_dependencies(self, kernel: Kernel) -> tuple[str, ...]:
        """The kernel, the engines that it is used with, and the siblings that it names."""
        names = dict.fromkeys((self.kernel, *self.engines(), *self.siblings))
        return tuple(kernel.requirement(name) for name in names)

    def extras(self, kernel: Kernel) -> dict[str, list[str]]:
        """Its optional dependencies; those of this repository in the kernel's releases."""
        return {
            extra: [
                kernel.requirement(_bare(r)) if _is_own(r, self.folder) else r for r in requirements
            ]
            for extra, requirements in self.optional_dependencies.items()
        }

    def engines(self) -> tuple[str, ...]:
        """The engines that come with it.

        One that forms the Jacobian wherever gradients are looked at; where the Gramian suffices,
        the one that needs no Jacobian as well, as an instance-wise step would else cost a user who
        installed a method and nothing more some dozens of ordinary ones.

        :raises MetadataError: if a class cannot be loaded.
        """
        if not {"weighting", "aggregator"} & set(self.kinds):
            return ()
        weightings = self.entry_points.get(GROUPS["weighting"], {}).values()
        looks_at_gramian = any("gramian" in self.load(value).needs for value in weightings)
        return (DEFAULT_ENGINE, GRAMIAN_ENGINE) if looks_at_gramian else (DEFAULT_ENGINE,)

    def commands(self) -> dict[str, str]:
        """The commands that its observers add to ``jd``, each with the first line of its help.

        :raises MetadataError: if an observer cannot be loaded.
        """
        app = typer.Typer()
        for value in self.entry_points.get(HOOK_GROUP, {}).values():
            observer = self.load(value)
            getattr(observer, "jd_cli", lambda app: None)(app=app)
        return {str(info.name): _first_line(info.callback) for info in app.registered_commands}

    def applications(self) -> list[Application]:
        """One entry of ``jdframework/cli/applications.json`` for each command."""
        return [
            Application(command=command, distribution=self.distribution, summary=summary)
            for command, summary in self.commands().items()
        ]

    def published(self) -> list[Published]:
        """One entry of ``jdframework/registry/directory.json`` for each name it offers."""
        return [
            Published(
                name=name,
                kind=kind,
                distribution=self.distribution,
                summary=self.description,
                aliases=self.aliases(kind, value),
            )
            for kind in self.kinds
            for name, value in self.entry_points[GROUPS[kind]].items()
        ]

    def aliases(self, kind: Kind, value: str) -> list[str]:
        """The sorted aliases of the class at ``value``."""
        entries = self.entry_points.get(ALIAS_GROUPS[kind], {})
        return sorted(alias for alias, target in entries.items() if target == value)

    def load(self, value: str) -> Any:
        """What an entry point means, from this folder and not from what is installed.

        :raises MetadataError: if there is none.
        """
        source = str(self.folder / "src")
        if source not in sys.path:
            sys.path.insert(0, source)
        module, _, attribute = value.partition(":")
        try:
            loaded = importlib.import_module(module)
            return getattr(loaded, attribute) if attribute else loaded
        except Exception as error:  # a plugin's module may raise anything
            raise MetadataError(
                f"the entry point {value} cannot be loaded ({type(error).__name__}: {error})"
            ) from error

    def load_all(self) -> None:
        """Imports everything that its entry points promise.

        :raises MetadataError: if something is not there.
        """
        for entries in self.entry_points.values():
            for value in entries.values():
                self.load(value)

    def missing_parts(self) -> list[str]:
        """The files that every plugin has and this one lacks."""
        package = Path("src") / self.module
        parts = (package / "__init__.py", package / "py.typed", Path("tests"))
        missing = [str(part) for part in parts if not (self.folder / part).exists()]
        if not missing and not list(self.folder.glob("tests/test_*.py")):
            missing.append("tests/test_*.py")
        return missing

    def pyproject(self, kernel: Kernel) -> str:
        """The text of its ``pyproject.toml``."""
        return _filled("plugin.pyproject.toml.jinja", plugin=self, kernel=kernel)

    def readme(self) -> str:
        """The text of its ``README.md``."""
        if not self.kinds:
            return _filled("application.README.md.jinja", plugin=self, commands=self.commands())
        kind = self.kinds[0]
        name, value = next(iter(self.entry_points[GROUPS[kind]].items()))
        settings = "".join(
            f", {field}={_literal(setting)}" for field, setting in self.example.items()
        )
        engine = kind == "engine"
        return _filled(
            "plugin.README.md.jinja",
            plugin=self,
            name=name,
            engine=engine,
            method=self.load(value),
            aliases=self.aliases(kind, value),
            arguments=f'"{name}", model{settings}' if engine else f'model, "{name}"{settings}',
        )

    def _check_names(self) -> None:
        if not is_canonical(self.name):
            raise MetadataError(f"{self.name!r} is not in kebab-case")
        for kind in KINDS:
            canonical = self.entry_points.get(GROUPS[kind], {})
            for name in canonical:
                if not is_canonical(name):
                    raise MetadataError(f"the {kind} {name!r} is not in kebab-case")
            for alias, value in self.entry_points.get(ALIAS_GROUPS[kind], {}).items():
                if value not in canonical.values():
                    raise MetadataError(f"the alias {alias!r} points to no {kind} of this plugin")


def _refuse_what_would_be_lost(metadata: Mapping[str, Any]) -> None:
    lost = []
    for path, kept in _KEPT.items():
        table: Any = metadata
        for part in path.split(".")[:-1]:
            table = table.get(part, {})
        lost += [path + name for name in table if name not in kept]
    if lost:
        raise MetadataError(f"the template has no place for {', '.join(lost)}")


def _in_order(groups: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    known = [group for group in _GROUP_ORDER if group in groups]
    others = sorted(groups.keys() - set(known))
    return {group: dict(sorted(groups[group].items())) for group in (*known, *others)}


def _divided(requirements: list[str], folder: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The bare names of what is of this repository, and the requirements that are not."""
    own = tuple(_bare(text) for text in requirements if _is_own(text, folder))
    return own, tuple(text for text in requirements if not _is_own(text, folder))


def _is_own(requirement: str, folder: Path) -> bool:
    name = _bare(requirement).partition("[")[0]
    siblings = {key(PREFIX + other.name) for other in folder.parents[1].glob("*/*")}
    return key(name) in {key(KERNEL), key(DEFAULT_ENGINE), key(GRAMIAN_ENGINE)} | siblings


def _is_kernel(name: str) -> bool:
    return key(name.partition("[")[0]) == key(KERNEL)


def _bare(requirement: str) -> str:
    """The requirement's name and extras, without releases.

    >>> _bare("jdframework[testing]>=0.1,<0.2")
    'jdframework[testing]'
    """
    found = re.match(r"[\w.-]+(\[[^\]]*\])?", requirement)
    return requirement if found is None else found[0]


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().partition("\n")[0].rstrip(".")


def _toml(value: Any) -> str:
    """A string, a number, a list or a table on one line; JSON's strings are TOML's."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _literal(setting: Any) -> str:
    """The setting in Python, with the quotes that the formatter takes."""
    return json.dumps(setting, ensure_ascii=False) if isinstance(setting, str) else repr(setting)


def _filled(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)


@cache
def _templates() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701  # these are no web pages
    )
    environment.filters["toml"] = _toml
    return environment
