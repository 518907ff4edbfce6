"""Finds public objects without a full docstring: ``python tools/reference.py``.

Public is what the kernel's public modules export. Each needs a docstring that speaks of every
parameter, in a field or in its text; each public field of a class, a docstring or a description. A
tensor says its shape, in the annotation or in words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

from griffe import Alias, Attribute, Class, Function, GriffeLoader, Module, Object, Parameter

ROOT: Final = Path(__file__).resolve().parent.parent
MODULES: Final = (
    "jdframework",
    "jdframework.bases",
    "jdframework.cli.completion",
    "jdframework.cli.console",
    "jdframework.config",
    "jdframework.errors",
    "jdframework.descent.functional",
    "jdframework.hooks",
    "jdframework.linalg",
    "jdframework.autograd.memory",
    "jdframework.protocols",
    "jdframework.testing.pytest_plugin",
    "jdframework.registry",
    "jdframework.testing",
    "jdframework.testing.conformance",
)
_SHAPE: Final = re.compile(r"``?\[[^`]*\]``?|\bshape|\bscalar")


def main() -> int:
    """The command; 1 if something is missing."""
    lines = [line for public in public_objects() for line in shortcomings(public)]
    print("\n".join(lines) or "every public object is documented")
    return 1 if lines else 0


def public_objects() -> list[Object]:
    """What the public modules export, each once, where it is defined."""
    kernel = _kernel()
    found: dict[str, Object] = {}
    for name in MODULES:
        module = kernel if name == "jdframework" else kernel[name.removeprefix("jdframework.")]
        for member in _exported(module):
            found.setdefault(member.path, member)
    return list(found.values())


def shortcomings(public: Object) -> Iterator[str]:
    """One line for each thing that its documentation lacks.

    :param public: A class, a function or a constant.
    """
    text = _text(public)
    if not text:
        yield f"{public.path}: has no docstring"
    elif isinstance(public, Function):
        yield from _of_parameters(public, text)
    elif isinstance(public, Class):
        yield from _of_parameters(public, text)
        for member in _public_members(public):
            yield from _of_member(public, member, text)


@cache
def _kernel() -> Module:
    loader = GriffeLoader(search_paths=[ROOT])
    kernel = loader.load("jdframework")
    loader.resolve_aliases(implicit=True, external=False)
    assert isinstance(kernel, Module)
    return kernel


def _exported(module: Module) -> Iterator[Object]:
    names = module.exports or [n for n, m in module.members.items() if _is_own(module, n, m)]
    for name in map(str, names):
        member = module.members.get(name)
        if name.startswith("_") or member is None:
            continue
        target = member.final_target if isinstance(member, Alias) else member
        if not isinstance(target, Module):
            yield target


def _is_own(module: Module, name: str, member: Object | Alias) -> bool:
    return not name.startswith("_") and not member.is_alias and not isinstance(member, Module)


def _public_members(cls: Class) -> Iterator[Function | Attribute]:
    for name, member in cls.members.items():
        is_public = not name.startswith("_") and name != "model_config" and not member.is_alias
        if is_public and isinstance(member, Function | Attribute):
            yield member


def _of_member(cls: Class, member: Function | Attribute, of_class: str) -> Iterator[str]:
    if _is_inherited(cls, member.name):
        return
    text = _text(member)
    if isinstance(member, Attribute):
        described = "description=" in str(member.value) or _names(of_class, member.name)
        if not text and not described:
            yield f"{member.path}: has no docstring"
    elif not text:
        yield f"{member.path}: has no docstring"
    else:
        yield from _of_parameters(member, text)


def _of_parameters(owner: Function | Class, text: str) -> Iterator[str]:
    if isinstance(owner, Class) and not _has_own_init(owner):
        return
    if isinstance(owner, Function) and _is_called_by_pytest(owner):
        return
    for parameter in owner.parameters:
        name = parameter.name.lstrip("*")
        if name in ("self", "cls") or name.startswith("_"):
            continue
        if isinstance(owner, Class) and (name in owner.members or name == "config"):
            continue  # fields are looked at by themselves, the settings' in their model
        if not _names(text, name):
            yield f"{owner.path}: says nothing of the parameter {name}"
        elif _is_bare_tensor(parameter) and not _SHAPE.search(text):
            yield f"{owner.path}: says nothing of the shape of {name}"


def _has_own_init(cls: Class) -> bool:
    return "__init__" in cls.members or "dataclass" in cls.labels


def _is_called_by_pytest(function: Function) -> bool:
    """Tests, fixtures and pytest's hooks, whose parameters mean what they mean to pytest."""
    fixture = any("pytest.fixture" in str(mark.value) for mark in function.decorators)
    return fixture or function.name.startswith(("test_", "pytest_"))


def _names(text: str, name: str) -> bool:
    """Whether a field or code in the text is about ``name``."""
    return re.search(rf":(param|ivar|cvar) {name}:|``[^`]*\b{name}\b[^`]*``", text) is not None


def _is_bare_tensor(parameter: Parameter) -> bool:
    return str(parameter.annotation) in ("Tensor", "torch.Tensor")


def _is_inherited(cls: Class, name: str) -> bool:
    """Whether a base says already what it is."""
    return any(name in base.members and _text(base.members[name]) for base in cls.mro())


def _text(public: Object | Alias) -> str:
    return "" if public.docstring is None else public.docstring.value


if __name__ == "__main__":
    raise SystemExit(main())
