"""Finds links that cannot be right: ``python tools/links.py check|list``.

``list`` prints every address elsewhere and the files that name it, for somebody with a network.
``check`` needs none: it looks at the addresses' form. Links within the site are the build's to
check, which refuses a page or a heading that is not there.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).resolve().parent.parent
_TEXTS: Final = ("*.md", "*.py", "*.toml", "*.yml", "*.html", "*.jinja", "*.cff")
_NOT_OURS: Final = ("tests/", "docs/assets/", "tools/links.py")
"""Tests make addresses up, as the example below does."""
_ADDRESS: Final = re.compile(r"""\bhttps?:[^\s"'<>`|\\^{}\]]*""")
_EXAMPLES: Final = re.compile(r"(^|\.)(example\.(com|org)|example|localhost)$|^127\.")
_HOST: Final = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}")
_NAMESPACES: Final = ("http://www.w3.org/",)
"""These are names, which nobody follows."""


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 if ``check`` found an address that cannot be right."""
    parser = argparse.ArgumentParser(prog="tools/links.py", description=__doc__)
    parser.add_argument("action", choices=["check", "list"])
    action = parser.parse_args(arguments).action
    found = links()
    if action == "list":
        for address, files in found.items():
            print(f"{address}  {', '.join(files)}")
        return 0
    lines = list(mistakes(found))
    print("\n".join(lines) or f"the form of all {len(found)} addresses is right")
    return 1 if lines else 0


def links(root: Path = ROOT) -> dict[str, list[str]]:
    """Every address elsewhere that a file of the repository names, sorted, with these files.

    :param root: Of the repository.
    """
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *_TEXTS]
    listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)  # noqa: S603  # git itself
    found: dict[str, set[str]] = defaultdict(set)
    for name in listed.stdout.splitlines():
        if not name.startswith(_NOT_OURS) and "/tests/" not in name and (root / name).exists():
            for address in addresses((root / name).read_text("utf-8")):
                found[address].add(name)
    return {address: sorted(found[address]) for address in sorted(found)}


def addresses(text: str) -> Iterator[str]:
    """The addresses in a text, without the punctuation of the sentence that they stand in.

    :param text: Markdown, Python or a configuration.

    >>> list(addresses("See <https://a.org/b>, [c](https://d.org/e_(f)), or https://g.org."))
    ['https://a.org/b', 'https://d.org/e_(f)', 'https://g.org']
    """
    for match in _ADDRESS.finditer(text):
        address = match[0].rstrip(".,;:!?*")
        while address.endswith(")") and address.count(")") > address.count("("):
            address = address[:-1].rstrip(".,;:!?*")
        if not address.startswith(_NAMESPACES) and _is_meant(address):
            yield address


def mistakes(found: Mapping[str, list[str]]) -> Iterator[str]:
    """One line for each address that cannot be right.

    :param found: From :func:`links`.
    """
    for address, files in found.items():
        if mistake := _mistake(address):
            yield f"{address} {mistake}: {', '.join(files)}"


def _is_meant(address: str) -> bool:
    """Whether it is a link, and nothing that a reader has to fill in."""
    host = urlsplit(address).hostname or ""
    return bool(host) and "…" not in address and not _EXAMPLES.search(host)


def _mistake(address: str) -> str:
    parts = urlsplit(address)
    host = parts.hostname or ""
    if parts.scheme != "https":
        return "is not https"
    if not _HOST.fullmatch(host):
        return "has no host that can be"
    if host == "arxiv.org" and not re.fullmatch(r"/(abs|pdf)/\d{4}\.\d{4,5}(v\d+)?", parts.path):
        return "is no address of a paper on arXiv"
    if host == "doi.org" and not parts.path.startswith("/10."):
        return "is no DOI"
    if "//" in parts.path:
        return "has an empty part"
    return ""


if __name__ == "__main__":
    raise SystemExit(main())
