"""Hook specifications: what an observer of training, resolution and the command line may add.

An observer is a pluggy plugin with plain ``@hookimpl`` functions: a module, an object, or a class
without arguments. It is offered by an installed distribution through the entry-point group
``jdframework.hooks``, or registered in the program by :func:`register`. A hook that nobody
implements costs one look-up in a set; one that fails is reported once in a warning, and training
goes on. So that an application costs training nothing, its observer imports what it needs inside of
``jd_cli``.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final

import pluggy

from jdframework.protocols.entry_points import hook_entry_points

if TYPE_CHECKING:
    import typer

    from jdframework.descent.step import Step

hookspec: Final = pluggy.HookspecMarker("jdframework")
"""Marks the hooks below."""
hookimpl: Final = pluggy.HookimplMarker("jdframework")
"""Marks an observer's method that implements one of them."""


class HookSpecs:
    """The hooks that an observer may implement."""

    @hookspec
    def jd_step(self, step: Step) -> None:
        """Called after each ``Descent.backward`` with what it did, a ``step``."""

    @hookspec
    def jd_resolved(self, method: object) -> None:
        """Called with each ``method`` or engine that was made from a spec."""

    @hookspec
    def jd_fallback(self, name: str, reason: str) -> None:
        """Called when an engine or a solver ``name`` goes on in a slower way, for ``reason``."""

    @hookspec
    def jd_cli(self, app: typer.Typer) -> None:
        """Called once when the command line starts; may add sub-commands to ``app``."""


class _Observers:
    """The observers of this process; entry points are read on the first call."""

    def __init__(self) -> None:
        self._plugins: pluggy.PluginManager | None = None
        self._unheard: set[str] = set()
        self._reported: set[str] = set()

    def _manager(self) -> pluggy.PluginManager:
        if self._plugins is None:
            self._plugins = pluggy.PluginManager("jdframework")
            self._plugins.add_hookspecs(HookSpecs)
            self._load_entry_points(self._plugins)
        return self._plugins

    def _load_entry_points(self, plugins: pluggy.PluginManager) -> None:
        for entry_point in reversed(hook_entry_points()):  # what is registered last is called first
            try:
                loaded = entry_point.load()
                observer = loaded() if isinstance(loaded, type) else loaded
                _add(plugins, observer, entry_point.name)
            except (Exception, SystemExit) as error:  # noqa: BLE001  # it stops nothing
                self._report(entry_point.name, f"cannot be loaded and is left out: {error!r}")

    def _report(self, name: str, what: str) -> None:
        if name not in self._reported:
            self._reported.add(name)
            warnings.warn(f"the hook plugin {name!r} {what}", stacklevel=4)

    def register(self, observer: object, name: str | None = None) -> None:
        _add(self._manager(), observer, name)
        self._unheard.clear()

    def unregister(self, observer: object) -> None:
        self._manager().unregister(observer)

    def call(self, hook: str, **arguments: Any) -> None:
        if hook in self._unheard:
            return
        implementations = getattr(self._manager().hook, hook).get_hookimpls()
        if not implementations:
            self._unheard.add(hook)
        for implementation in reversed(implementations):
            try:
                implementation.function(*(arguments[name] for name in implementation.argnames))
            except Exception as error:  # noqa: BLE001  # an observer stops no training run
                what = f"failed in {hook}, and training goes on: {error!r}"
                self._report(implementation.plugin_name, what)


def _add(plugins: pluggy.PluginManager, observer: object, name: str | None) -> None:
    """Registers an observer whose every implementation will be called."""
    plugins.register(observer, name=name)
    try:
        plugins.check_pending()
        for caller in plugins.get_hookcallers(observer) or ():
            for implementation in caller.get_hookimpls():
                if implementation.wrapper or implementation.hookwrapper:
                    raise ValueError(
                        f"{implementation.function.__qualname__} is a wrapper: observers are "
                        f"called one by one, so use a plain @hookimpl"
                    )
    except (ValueError, pluggy.PluginValidationError):
        plugins.unregister(observer)
        raise


_observers: Final = _Observers()


def register(observer: object, name: str | None = None) -> None:
    """Adds an observer for the rest of this process.

    :param observer: A module or an object with ``@hookimpl`` functions.
    :param name: What warnings call it; pluggy makes one up when None.
    :raises ValueError: if it is registered already, or one of its hooks is a wrapper.
    :raises pluggy.PluginValidationError: if it implements a hook that does not exist.
    """
    _observers.register(observer, name)


def unregister(observer: object) -> None:
    """Removes an observer that :func:`register` added.

    :param observer: The same object.
    """
    _observers.unregister(observer)


def call(hook: str, **arguments: Any) -> None:
    """Calls every observer's implementation of ``hook``, each on its own.

    :param hook: The name of a hook.
    :param arguments: Its arguments.
    """
    _observers.call(hook, **arguments)
