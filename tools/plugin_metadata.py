"""Keeps the metadata of all plugins in one shape.

``python tools/plugin_metadata.py render|check|list``

What is particular to a plugin stands in its ``pyproject.toml``. Out of that and the templates come
the whole file, the plugin's ``README.md``, and of the kernel ``directory.json``,
``applications.json`` and the extras ``recommended`` and ``all``. The directory also holds what
others publish: ``plugins/third-party.toml``.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from jdframework.protocols.names import key
from jdframework.registry.directory import Published
from plugin_folder import Kernel, MetadataError, Plugin
from third_party import THIRD_PARTY, third_party

START: Final = "# Extras of plugins/*/*, rendered by tools/plugin_metadata.py"
END: Final = "# End of what is rendered"
ROOT: Final = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """The command.

    :return: 1 if a plugin's metadata cannot be used, or if ``check`` found a difference.
    """
    parser = argparse.ArgumentParser(prog="tools/plugin_metadata.py", description=__doc__)
    parser.add_argument("action", choices=["render", "check", "list"])
    action = parser.parse_args(arguments).action
    if action == "list":
        print("\n".join(listing(root)))
        return 0
    if action == "render":
        for path in render(root):
            print(f"wrote {path.relative_to(root)}")
    lines = drift(root)
    print("\n".join(lines) or "the metadata of every plugin is up to date")
    return 1 if lines else 0


def folders(root: Path) -> list[Path]:
    """Every plugin's folder, ``plugins/<family>/<name>``."""
    described = {path.parent for path in root.glob("plugins/*/*/pyproject.toml")}
    with_code = {path.parents[2] for path in root.glob("plugins/*/*/src/*/*.py")}
    return sorted(described | with_code)


def listing(root: Path) -> Iterator[str]:
    """One line for each plugin: family, name, kinds, and what it needs besides the kernel."""
    for folder in folders(root):
        plugin = Plugin.read(folder)
        needed = (*plugin.siblings, *plugin.dependencies)
        further = f"needs {', '.join(needed)}" if needed else ""
        kinds = ", ".join(plugin.kinds) or "application"
        yield f"{folder.parent.name:14}{plugin.name:20}{kinds:24}{further}".rstrip()


def render(root: Path) -> list[Path]:
    """Writes every file that differs from what it should be."""
    expected, _ = _expected(root)
    stale = [path for path, text in expected.items() if _text(path) != text]
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(expected[path], "utf-8")
    return stale


def drift(root: Path) -> list[str]:
    """One line for each thing that is not as it should be."""
    expected, mistakes = _expected(root)
    stale = [path for path, text in expected.items() if _text(path) != text]
    return mistakes + [
        f"{path.relative_to(root)}: differs from its template; "
        f"run python tools/plugin_metadata.py render"
        for path in stale
    ]


def _expected(root: Path) -> tuple[dict[Path, str], list[str]]:
    """What each rendered file should hold, and what keeps some from being rendered."""
    kernel = Kernel.read(root)
    files: dict[Path, str] = {}
    mistakes = []
    plugins = []
    for folder in folders(root):
        where = folder.relative_to(root)
        try:
            plugin = Plugin.read(folder)
            plugins.append(plugin)
            files[folder / "pyproject.toml"] = plugin.pyproject(kernel)
            files[folder / "README.md"] = plugin.readme()
            plugin.load_all()
        except MetadataError as error:
            mistakes.append(f"{where}: {error}")
        else:
            mistakes += [f"{where}: {part} is missing" for part in plugin.missing_parts()]
    entries = [entry for plugin in plugins for entry in plugin.published()]
    try:
        entries += third_party(root / THIRD_PARTY)
    except MetadataError as error:
        mistakes.append(f"{THIRD_PARTY}: {error}")
    else:
        mistakes += _clashes(entries)
        if len(plugins) == len(folders(root)):
            files[root / "jdframework" / "registry" / "directory.json"] = _directory(entries)
            files[root / "jdframework" / "cli" / "applications.json"] = _applications(plugins)
            try:
                files[root / "pyproject.toml"] = _with_extras(root, plugins, kernel)
            except MetadataError as error:
                mistakes.append(f"pyproject.toml: {error}")
    return files, mistakes


def _with_extras(root: Path, plugins: Iterable[Plugin], kernel: Kernel) -> str:
    """The kernel's ``pyproject.toml`` with the extras that install plugins.

    :raises MetadataError: if it has no place for them.
    """
    text = (root / "pyproject.toml").read_text("utf-8")
    head, start, rest = text.partition(START)
    _, end, tail = rest.partition(END)
    if not start or not end:
        raise MetadataError(f"needs the lines {START!r} and {END!r}")
    by_name = {plugin.distribution: plugin for plugin in plugins}
    extras = {
        "recommended": [name for name in sorted(by_name) if by_name[name].recommended],
        "all": sorted(by_name),
    }
    lines = [
        f"{extra} = [\n" + "".join(f'    "{kernel.requirement(n)}",\n' for n in names) + "]\n"
        for extra, names in extras.items()
    ]
    return f"{head}{start}\n{''.join(lines)}{end}{tail}"


def _clashes(entries: Iterable[Published]) -> list[str]:
    owners: dict[tuple[str, str], set[str]] = defaultdict(set)
    for entry in entries:
        for name in (entry["name"], *entry["aliases"]):
            owners[entry["kind"], key(name)].add(entry["distribution"])
    return [
        f"plugins: the {kind} {name!r} is offered by {' and by '.join(sorted(distributions))}"
        for (kind, name), distributions in sorted(owners.items())
        if len(distributions) > 1
    ]


def _directory(entries: Iterable[Published]) -> str:
    ordered = sorted(entries, key=lambda entry: (entry["name"], entry["kind"]))
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def _applications(plugins: Iterable[Plugin]) -> str:
    entries = [entry for plugin in plugins for entry in plugin.applications()]
    ordered = sorted(entries, key=lambda entry: entry["command"])
    return json.dumps(ordered, indent=2, ensure_ascii=False) + "\n"


def _text(path: Path) -> str | None:
    return path.read_text("utf-8") if path.exists() else None


if __name__ == "__main__":
    raise SystemExit(main())
