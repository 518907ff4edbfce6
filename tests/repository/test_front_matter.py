"""What a visitor looks at first: the front page, the changelog, how to cite and how to help."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import jdframework as jd

ROOT = Path(__file__).parents[2]
FRONT = ["README.md", "CONTRIBUTING.md", "CODE_OF_CONDUCT.md", "SECURITY.md", "CHANGELOG.md"]
LINK = re.compile(r"\]\((?!https?://|#)([^)#\s]+)")

# The fields that the schema of CFF 1.2.0 knows.
CFF_FIELDS = [
    "abstract",
    "authors",
    "cff-version",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
    "message",
    "preferred-citation",
    "references",
    "repository",
    "repository-artifact",
    "repository-code",
    "title",
    "type",
    "url",
    "version",
]
CFF_PERSON = [
    "address",
    "affiliation",
    "alias",
    "city",
    "country",
    "email",
    "family-names",
    "fax",
    "given-names",
    "name-particle",
    "name-suffix",
    "orcid",
    "post-code",
    "region",
    "tel",
    "website",
]
CFF_ENTITY = [
    "address",
    "alias",
    "city",
    "country",
    "date-end",
    "date-start",
    "email",
    "fax",
    "location",
    "name",
    "orcid",
    "post-code",
    "region",
    "tel",
    "website",
]


@pytest.fixture
def citation() -> Any:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))


def is_creditable(author: dict[str, str]) -> bool:
    """A person with a name, or an entity with one, and no field that the schema lacks."""
    if "name" in author:
        return set(author) <= set(CFF_ENTITY)
    return bool(author) and set(author) <= set(CFF_PERSON)


def test_the_citation_file_keeps_to_its_schema(citation: Any) -> None:
    assert {"cff-version", "message", "title", "authors"} <= citation.keys() <= set(CFF_FIELDS)
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] in ("software", "dataset")
    assert all(map(is_creditable, citation["authors"]))
    assert len(set(citation["keywords"])) == len(citation["keywords"])
    for reference in citation["references"]:
        assert {"type", "title", "authors"} <= reference.keys()
        assert all(map(is_creditable, reference["authors"]))


def test_the_citation_file_is_that_of_this_version(citation: Any) -> None:
    assert citation["version"] == jd.__version__
    assert citation["license"] == "MIT"


def test_the_citation_file_refers_to_the_paper_that_the_method_names(citation: Any) -> None:
    (reference,) = citation["references"]
    paper = jd.describe("upgrad").paper
    assert paper is not None
    assert (reference["title"], reference["url"]) == (paper.title, paper.url)
    assert reference["year"] == paper.year


def test_the_changelog_keeps_its_form() -> None:
    """Keep a Changelog: versions with dates, newest first, and six kinds of change."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    heads = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert heads[0] == "[Unreleased]"
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", head) for head in heads[1:])
    kinds = set(re.findall(r"^### (.+)$", text, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


@pytest.mark.parametrize("name", FRONT)
def test_what_a_front_file_links_to_is_there(name: str) -> None:
    text = re.sub(r"^ *```.*?^ *```$", "", (ROOT / name).read_text("utf-8"), flags=re.M | re.S)
    targets = LINK.findall(text)
    assert not [target for target in targets if not (ROOT / target).exists()]


def test_the_front_page_shows_a_committed_figure() -> None:
    figures = re.findall(r"\]\((benchmarks/results/[^)]+\.svg)\)", (ROOT / "README.md").read_text())
    assert figures


@pytest.mark.parametrize(
    "page", sorted((ROOT / "docs").rglob("*.md")), ids=lambda page: str(page.relative_to(ROOT))
)
def test_formulas_within_a_line_stay_within_it(page: Path) -> None:
    """The site's Markdown takes a line that begins with one for the end of a paragraph."""
    text = re.sub(r"^```.*?^```$|^\$\$.*?\$\$$", "", page.read_text("utf-8"), flags=re.M | re.S)
    for line in re.sub(r"`[^`]*`", "", text).splitlines():
        assert not line.lstrip().startswith("$")
        assert line.count("$") % 2 == 0, line


@pytest.mark.parametrize(
    "page", ["docs/guides/choosing-a-method.md", "docs/explanation/geometry.md"]
)
def test_papers_are_cited_by_the_address_that_the_method_has(page: str) -> None:
    text = (ROOT / page).read_text("utf-8")
    known = {jd.describe(name).paper for name in jd.available()} - {None}
    urls = {paper.url for paper in known if paper is not None}
    cited = re.findall(r"\]\((https://(?:arxiv|doi)\.org/[^)]+)\)", text)
    assert cited
    assert set(cited) <= urls
