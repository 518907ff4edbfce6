from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import jdframework as jd
from jdframework.protocols.names import key, nearest

if TYPE_CHECKING:
    from conftest import Site


@pytest.mark.parametrize(
    "spelling",
    ["imtl-g", "IMTL-G", "imtl_g", "imtlg", "IMTL.G", " imtl g ", "Imtl--G", "i-m-t-l-g"],
)
def test_case_and_separators_do_not_matter(spelling: str) -> None:
    assert jd.weighting(spelling).name == "imtl-g"
    assert jd.describe(spelling).name == "imtl-g"
    assert jd.aggregator({"name": spelling}).name == "imtl-g"


def test_an_alias_resolves_to_the_canonical_method() -> None:
    assert type(jd.weighting("rlw")) is type(jd.weighting("random"))
    assert type(jd.scalarizer("RLW")) is type(jd.scalarizer("random"))
    described = jd.describe("rlw")
    assert described.name == "random"
    assert described.aliases == ("rlw",)


def test_aliases_are_not_listed() -> None:
    assert "rlw" not in jd.available()


def test_a_canonical_name_goes_before_an_alias(site: Site) -> None:
    module = site.weighting("jd-plugin-greedy", "greedy", value=5.0)
    site.install(
        "jd-plugin-greedy-aliases",
        {"jdframework.aliases.weightings": {"mean": f"{module}:Method"}},
    )
    assert jd.weighting("mean").name == "mean"


def test_two_aliases_of_one_spelling_clash(site: Site) -> None:
    for number in ("first", "second"):
        site.weighting(f"jd-plugin-{number}", number, aliases=["short"])
    with pytest.raises(jd.NameConflictError) as error:
        jd.weighting("short")
    assert "jd-plugin-first and by jd-plugin-second" in str(error.value)
    assert jd.weighting("first").name == "first"
    assert jd.describe("first").aliases == ("short",)


def test_an_alias_without_a_canonical_name_still_resolves(site: Site) -> None:
    site.weighting("jd-plugin-only", aliases=["only"])
    assert jd.weighting("only").name == "only"
    assert "only" not in jd.available()


def test_the_key_is_what_is_left_of_a_name() -> None:
    assert key("Nash-MTL") == key("nash_mtl") == key(" nash.mtl\t") == "nashmtl"
    assert key("dwa") != key("dwb")


def test_the_nearest_names_come_first() -> None:
    assert nearest("upgrd", ["mgda", "upgrad", "imtl-g"]) == ["upgrad"]
    assert nearest("mean", []) == []
    assert len(nearest("ab", ["ab1", "ab2", "ab3", "ab4"], most=2)) == 2
