"""What can go wrong, each as one class, all below :class:`JDError`."""

from __future__ import annotations


class JDError(Exception):
    """Base of every error that the framework raises on purpose."""


class ConfigError(JDError, ValueError):
    """A method, an engine or a spec was given settings that it does not accept."""


class UnknownNameError(JDError, LookupError):
    """No installed plugin offers the name."""


class BlockedNameError(UnknownNameError):
    """The name is installed, but ``JD_DISABLE_PLUGINS`` blocks it."""


class NameConflictError(JDError):
    """Two distributions offer one name."""


class PluginLoadError(JDError, ImportError):
    """A plugin is installed, but importing it fails or what it offers is no method."""


class UnsupportedModelError(JDError, RuntimeError):
    """An engine cannot give the right answer on this model, so it gives none.

    :param reason: What stands in the way, and the remedy.
    :param engine: The name of the engine, where the sentence does not tell it.
    """

    def __init__(self, reason: str = "", engine: str | None = None) -> None:
        super().__init__(reason if engine is None else f"{reason} (the engine {engine!r})")
        self.reason = reason
        """The sentence alone, which other engines may say as well."""


class NonFiniteError(JDError, ArithmeticError):
    """A loss or a gradient is NaN or infinite."""


class SolverError(JDError, RuntimeError):
    """A solver, and every solver that it falls back on, failed."""
