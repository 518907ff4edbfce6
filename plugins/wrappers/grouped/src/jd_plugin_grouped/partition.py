"""Three ways to divide parameters into groups, by their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from jdframework.errors import ConfigError
from jdframework.protocols.names import nearest


def by_tensor(names: Sequence[str]) -> list[list[str]]:
    """Each on its own.

    >>> by_tensor(["0.weight", "0.bias"])
    [['0.weight'], ['0.bias']]
    """
    return [[name] for name in names]


def by_module(names: Sequence[str]) -> list[list[str]]:
    """Together, what one module has as parameters of its own.

    >>> by_module(["scale", "0.weight", "0.bias", "1.linear.weight"])
    [['scale'], ['0.weight', '0.bias'], ['1.linear.weight']]
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(name.rpartition(".")[0], []).append(name)
    return list(groups.values())


def by_patterns(names: Sequence[str], patterns: Sequence[Sequence[str]]) -> list[list[str]]:
    """Together, what one list of patterns matches; last, what none does.

    :param names: The parameters' names.
    :param patterns: Per group, patterns of which a name matches at least one.
    :raises ConfigError: if a pattern matches nothing, or two groups' patterns the same name.

    >>> by_patterns(["0.weight", "0.bias", "1.weight"], [["*.bias"], ["1.*"]])
    [['0.bias'], ['1.weight'], ['0.weight']]
    """
    _check_each_matches(names, patterns)
    groups: list[list[str]] = [[] for _ in patterns]
    rest: list[str] = []
    for name in names:
        found = [i for i, group in enumerate(patterns) if _matches(name, group)]
        if len(found) > 1:
            raise ConfigError(
                f"grouped: the parameter {name!r} is in the groups {list(patterns[found[0]])} and "
                f"{list(patterns[found[1]])}, but each may be in one only"
            )
        (groups[found[0]] if found else rest).append(name)
    return [*groups, rest] if rest else groups


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_each_matches(names: Sequence[str], patterns: Sequence[Sequence[str]]) -> None:
    for pattern in (pattern for group in patterns for pattern in group):
        if not any(fnmatchcase(name, pattern) for name in names):
            close = nearest(pattern, names) or names[:3]
            raise ConfigError(
                f"grouped: by has the pattern {pattern!r}, which matches no parameter; there are, "
                f"for example, {', '.join(map(repr, close))}"
            )
