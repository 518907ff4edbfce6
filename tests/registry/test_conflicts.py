from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import jdframework as jd

if TYPE_CHECKING:
    from conftest import Site


@pytest.fixture
def clash(site: Site) -> Site:
    site.weighting("jd-plugin-first", "contested", "only-first", value=1.0)
    site.weighting("jd-plugin-second", "contested", "only-second", value=2.0)
    return site


@pytest.mark.usefixtures("clash")
def test_a_name_that_two_distributions_offer_is_refused() -> None:
    with pytest.raises(jd.NameConflictError) as error:
        jd.weighting("contested")
    assert str(error.value) == (
        "the weighting 'contested' is offered by jd-plugin-first and by jd-plugin-second: "
        "uninstall one of them, or block one with JD_DISABLE_PLUGINS=jd-plugin-first"
    )


@pytest.mark.usefixtures("clash")
def test_every_other_name_keeps_working() -> None:
    assert {"contested", "only-first", "only-second"} <= set(jd.available("weighting"))
    for name in ("only-first", "only-second", "upgrad"):
        assert jd.weighting(name).name == name


@pytest.mark.usefixtures("clash")
@pytest.mark.parametrize(
    ("blocked", "weight"), [("jd-plugin-first", 2.0), ("jd_plugin_second", 1.0)]
)
def test_blocking_one_of_them_solves_the_clash(
    monkeypatch: pytest.MonkeyPatch, blocked: str, weight: float
) -> None:
    import torch

    monkeypatch.setenv("JD_DISABLE_PLUGINS", blocked)
    assert jd.weighting("contested")(torch.eye(1)).item() == weight


def test_two_spellings_of_one_name_clash_too(site: Site) -> None:
    site.weighting("jd-plugin-first", "same-name")
    site.weighting("jd-plugin-second", "samename")
    with pytest.raises(jd.NameConflictError, match="jd-plugin-first and by jd-plugin-second"):
        jd.weighting("Same_Name")


def test_the_same_name_for_two_kinds_is_no_clash(site: Site) -> None:
    module = site.weighting("jd-plugin-first", "two-kinds")
    assert module
    scalarizer = site.module(
        "from jdframework.bases import Scalarizer\n"
        "class Method(Scalarizer):\n"
        "    def forward(self, losses):\n"
        "        return losses.sum()\n"
    )
    site.install(
        "jd-plugin-second", {"jdframework.scalarizers": {"two-kinds": f"{scalarizer}:Method"}}
    )
    assert jd.weighting("two-kinds").name == jd.scalarizer("two-kinds").name == "two-kinds"
    assert jd.describe("two-kinds").kinds == ("weighting", "scalarizer")


def test_a_copy_of_a_distribution_further_down_the_path_is_no_clash(
    site: Site, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = site.weighting("jd-plugin-first", "copied")
    other = type(site)(tmp_path_factory.mktemp("other"))
    other.install(
        "jd-plugin-first", {"jdframework.weightings": {"copied": f"{module}:Method"}}, "0.9"
    )
    monkeypatch.syspath_prepend(str(other.folder))
    monkeypatch.syspath_prepend(str(site.folder))
    assert jd.describe("copied").version == "1.0"
