from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import jdframework as jd

if TYPE_CHECKING:
    from conftest import Site


@pytest.mark.parametrize(
    "blocked", ["mgda", "MGDA", " mgda ,", "jd-plugin-mgda", "jd_plugin_MGDA", "sum,mgda"]
)
def test_a_blocked_name_is_neither_listed_nor_resolved(
    monkeypatch: pytest.MonkeyPatch, blocked: str
) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", blocked)
    assert "mgda" not in jd.available()
    with pytest.raises(jd.BlockedNameError) as error:
        jd.weighting("mgda")
    assert str(error.value) == (
        "the weighting 'mgda' is installed, "
        "but the environment variable JD_DISABLE_PLUGINS blocks it"
    )


def test_a_blocked_weighting_is_blocked_as_an_aggregator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "mgda")
    with pytest.raises(jd.BlockedNameError):
        jd.aggregator("mgda")


def test_blocking_one_name_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jd.available()
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "mgda")
    assert jd.available() == [name for name in before if name != "mgda"]
    assert jd.weighting("upgrad").name == "upgrad"


def test_blocking_a_distribution_blocks_each_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "jd-plugin-random")
    for spec in ("random", "rlw"):
        with pytest.raises(jd.BlockedNameError):
            jd.weighting(spec)
        with pytest.raises(jd.BlockedNameError):
            jd.scalarizer(spec)


def test_blocking_a_name_blocks_its_alias(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.weighting("jd-plugin-long", "long-name", aliases=["short"])
    monkeypatch.setenv("JD_DISABLE_PLUGINS", "long-name")
    with pytest.raises(jd.UnknownNameError):
        jd.weighting("short")


def test_an_empty_variable_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    before = jd.available()
    for value in ("", ",", " , ,"):
        monkeypatch.setenv("JD_DISABLE_PLUGINS", value)
        assert jd.available() == before


def test_a_class_that_the_program_registered_can_be_blocked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from jdframework.bases import GramianWeighting

    @jd.register("weighting", "registered-then-blocked")
    class Method(GramianWeighting):
        def forward(self, gramian):  # type: ignore[no-untyped-def]
            return gramian.new_ones(len(gramian))

    try:
        monkeypatch.setenv("JD_DISABLE_PLUGINS", "registered-then-blocked")
        with pytest.raises(jd.BlockedNameError):
            jd.weighting("registered-then-blocked")
    finally:
        jd.unregister("weighting", "registered-then-blocked")
