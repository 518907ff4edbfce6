from __future__ import annotations

import pytest

import jdframework as jd
from jdframework.registry import directory

PUBLISHED = (
    {
        "name": "quasi-newton-mtl",
        "kind": "weighting",
        "distribution": "jd-plugin-quasi-newton-mtl",
        "summary": "Invented for this test",
        "aliases": ["qn"],
    },
)


@pytest.fixture
def _published(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "published", lambda: PUBLISHED)


@pytest.mark.parametrize(
    ("misspelt", "nearest"), [("upgrd", "upgrad"), ("UP_GRADE", "upgrad"), ("imtl-gg", "imtl-g")]
)
def test_a_misspelt_name_is_answered_with_the_nearest(misspelt: str, nearest: str) -> None:
    with pytest.raises(jd.UnknownNameError) as error:
        jd.weighting(misspelt)
    assert str(error.value).startswith(f"no weighting is called {misspelt!r}: did you mean ")
    assert repr(nearest) in str(error.value)


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(jd.UnknownNameError, match=r"'zzzzqqq': see jd\.available\(\)"):
        jd.weighting("zzzzqqq")


@pytest.mark.usefixtures("_published")
@pytest.mark.parametrize("name", ["quasi-newton-mtl", "Quasi_Newton.MTL", "QN"])
def test_a_published_name_says_what_to_install(name: str) -> None:
    with pytest.raises(jd.UnknownNameError) as error:
        jd.weighting(name)
    assert str(error.value) == (
        "the weighting 'quasi-newton-mtl' is not installed: pip install jd-plugin-quasi-newton-mtl"
    )


@pytest.mark.usefixtures("_published")
def test_a_published_weighting_is_known_as_an_aggregator_too() -> None:
    with pytest.raises(jd.UnknownNameError, match="pip install jd-plugin-quasi-newton-mtl"):
        jd.aggregator("quasi-newton-mtl")


@pytest.mark.usefixtures("_published")
def test_published_names_are_among_the_suggestions() -> None:
    with pytest.raises(jd.UnknownNameError, match="did you mean 'quasi-newton-mtl'"):
        jd.weighting("quasi-newton")


def test_a_name_of_another_kind_says_where_it_is() -> None:
    with pytest.raises(jd.UnknownNameError) as error:
        jd.weighting("uw")
    assert str(error.value) == "'uw' is a scalarizer, not a weighting: use jd.scalarizer('uw')"


def test_a_scalarizer_is_no_aggregator() -> None:
    with pytest.raises(jd.UnknownNameError, match="not an aggregator or weighting: use jd.scalar"):
        jd.aggregator("uw")


def test_the_article_fits_the_kind() -> None:
    with pytest.raises(jd.UnknownNameError, match="'upgrad' is a weighting, not an engine"):
        jd.engine("upgrad")
    with pytest.raises(jd.UnknownNameError, match="'autojac' is an engine, not a weighting"):
        jd.weighting("autojac")


def test_an_empty_name_is_unknown() -> None:
    for name in ("", "-", "  "):
        with pytest.raises(jd.UnknownNameError):
            jd.weighting(name)


def test_an_unknown_kind_names_the_kinds() -> None:
    with pytest.raises(ValueError, match="weighting, aggregator, scalarizer, engine"):
        jd.available("optimizer")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown kind 'optimizer'"):
        jd.describe("mean", "optimizer")  # type: ignore[arg-type]


def test_an_unknown_name_is_a_lookup_error() -> None:
    with pytest.raises(LookupError):
        jd.describe("zzzzqqq")
