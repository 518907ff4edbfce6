"""What can be said of the built site without a browser."""

from __future__ import annotations

import re
import subprocess
import zlib
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import reference

NOT_PROSE = re.compile(r"<(script|style|pre|code)\b.*?</\1>", re.DOTALL)
SOURCE = re.compile(r"\\[a-zA-Z]{2,}|:math:")
ROOT = Path(__file__).parents[2]


class Page(HTMLParser):
    """The places of a page that links can lead to, and its links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.links: list[str] = []
        self.feed(path.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        self.places.update(filter(None, (named.get("id"), named.get("name"))))
        for attribute in ("href", "src"):
            if tag != "link" or named.get("rel") == "stylesheet":
                self.links += filter(None, [named.get(attribute)])


def test_every_link_within_the_site_leads_to_a_file_and_a_place_in_it(site: Path) -> None:
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    broken = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            place = unquote(parts.fragment)
            is_there = target.exists() and (
                not place or target not in pages or place in pages[target].places
            )
            if not is_there and place != "__codelineno":
                broken.append(f"{path.relative_to(site)}: {link}")
    assert broken == []


def test_every_public_object_is_on_a_page_of_the_reference(site: Path) -> None:
    text = site.joinpath("objects.inv").read_bytes().split(b"\n", 4)[4]
    listed = {line.split(" ")[0] for line in zlib.decompress(text).decode().splitlines()}
    missing = [
        public.path
        for public in reference.public_objects()
        if not any(name in listed for name in (public.path, *public.aliases))
    ]
    assert missing == []


def test_no_formula_is_left_as_its_source(site: Path) -> None:
    raw = []
    for path in site.rglob("*.html"):
        text = NOT_PROSE.sub("", path.read_text("utf-8"))
        raw += [f"{path.relative_to(site)}: {found}" for found in SOURCE.findall(text)]
    assert raw == []


def test_the_pictures_are_not_there_a_second_time(site: Path) -> None:
    assert not site.joinpath("assets", "gallery").exists()


def test_make_builds_the_site_strictly_and_hides_no_warning() -> None:
    """With ``--quiet``, MkDocs drops the warnings that ``--strict`` counts."""
    command = ["make", "--dry-run", "docs"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    (build,) = [line for line in done.stdout.splitlines() if "mkdocs build" in line]
    assert "--strict" in build
    assert "--quiet" not in build.partition("#")[0]
    assert " -q" not in build.partition("#")[0]
