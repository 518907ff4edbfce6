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
    """An engine cannot give the right answer on this model, so it gives none."""


class NonFiniteError(JDError, ArithmeticError):
    """A loss or a gradient is NaN or infinite."""


class SolverError(JDError, RuntimeError):
    """A solver, and every solver that it falls back on, failed."""
