"""Methods by name: one broken plugin, and two that offer one name."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from finding import Finding, Row

_PROGRAM: Final = """
import jdframework as jd
assert "broken" in jd.available("weighting") and "torch" not in __import__("sys").modules
for name in ("broken", "twice", "upgrad"):
    try:
        print(f"{name}: {type(jd.weighting(name)).__name__} resolved")
    except jd.JDError as error:
        print(f"{name}: {type(error).__name__}: {error}")
"""


def plugins() -> Row:
    """Row 12."""
    offered = sorted({entry.group for entry in distribution("torchjd").entry_points})
    with TemporaryDirectory() as folder:
        _install(Path(folder), "jd-plugin-broken", {"broken": "no_such_module:Method"})
        _install(Path(folder), "jd-plugin-one", {"twice": "no_such_module:Method"})
        _install(Path(folder), "jd-plugin-two", {"twice": "no_such_module:Method"})
        paths = [folder, *filter(None, [os.environ.get("PYTHONPATH")])]
        ran = subprocess.run(
            [sys.executable, "-c", _PROGRAM],
            check=False,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
        )
    lines = ran.stdout.splitlines()
    expected = ("broken: PluginLoadError", "twice: NameConflictError", "upgrad: UPGrad resolved")
    kept = len(lines) == len(expected) and all(map(str.startswith, lines, expected))
    groups = f"entry points in {', '.join(offered)}" if offered else "no entry points"
    return Row(
        "one broken plugin, or two of one name, leave every other name working",
        "three distributions installed beside ours, one of which cannot be imported and two of "
        "which offer one name; then all names are listed and three are resolved",
        Finding(None, f"it declares {groups}, so that no method is found by its name"),
        Finding(kept, "; ".join(lines) or ran.stderr[-200:]),
    )


def _install(folder: Path, name: str, offers: dict[str, str]) -> None:
    """What pip would leave of a distribution with a weighting."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n", "utf-8")
    entries = "\n".join(f"{entry} = {value}" for entry, value in offers.items())
    (info / "entry_points.txt").write_text(f"[jdframework.weightings]\n{entries}\n", "utf-8")
