"""Virtual environments that hold nothing of this repository but what is installed into them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

OURS = ("jdframework", "jd_plugin_", "jd-plugin-")


def link_third_party(target: Path) -> None:
    """Fills ``target`` with links to what is installed here, except for this repository's own.

    The parent's ``.pth`` files stay out: through them it finds the source trees. So do our
    distributions' metadata, in which a child would find their entry points.
    """
    for site in dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib")):
        for entry in Path(site).iterdir():
            if not entry.name.startswith(OURS) and entry.suffix != ".pth":
                (target / entry.name).symlink_to(entry)


def pip(*arguments: str) -> None:
    """Runs pip, unmoved by what is configured on this machine."""
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*command, *arguments], check=True)


class Environment:
    """A virtual environment in ``folder`` that sees the third-party packages in ``shared``."""

    def __init__(self, folder: Path, shared: Path) -> None:
        venv.create(folder, symlinks=True, with_pip=False)
        place = {"base": str(folder), "platbase": str(folder)}
        self.python = Path(sysconfig.get_path("scripts", "venv", place)) / "python"
        self.packages = Path(sysconfig.get_path("purelib", "venv", place))
        (self.packages / "third_party.pth").write_text(f"{shared}\n", "utf-8")

    def install(self, wheelhouse: Path, *arguments: str) -> None:
        """``pip install`` from the wheelhouse and nowhere else."""
        where = ["--no-index", "--find-links", str(wheelhouse)]
        pip(f"--python={self.python}", "install", "--no-compile", *where, *arguments)

    def run(self, *arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
        """Runs its Python, with no way to the repository: not by folder and not by variable."""
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith("PYTHON")
        }
        return subprocess.run(
            [self.python, "-P", *arguments],
            cwd=folder,
            env=variables,
            capture_output=True,
            text=True,
            check=False,
        )
