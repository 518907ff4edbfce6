from __future__ import annotations

import shutil
import time
from typing import TYPE_CHECKING

import pytest

import jdframework as jd
from jdframework.registry import discovery

if TYPE_CHECKING:
    from conftest import Site


def test_a_newly_installed_distribution_is_seen_without_a_restart(site: Site) -> None:
    with pytest.raises(jd.UnknownNameError):
        jd.weighting("newcomer")
    site.weighting("jd-plugin-newcomer", "newcomer")
    assert "newcomer" in jd.available("weighting")
    assert jd.weighting("newcomer").name == "newcomer"


def test_an_uninstalled_distribution_is_gone_without_a_restart(site: Site) -> None:
    site.weighting("jd-plugin-leaver", "leaver")
    assert "leaver" in jd.available()
    # The folder's time stamp moves in steps of some file systems' clocks.
    time.sleep(0.02)
    shutil.rmtree(site.folder / "jd_plugin_leaver-1.0.dist-info")
    assert "leaver" not in jd.available()


def test_listing_is_sorted_and_by_kind(site: Site) -> None:
    site.weighting("jd-plugin-several", "zebra", "aardvark")
    for kind in (None, "weighting", "aggregator", "scalarizer", "engine"):
        names = jd.available(kind)
        assert names == sorted(set(names))
    assert {"zebra", "aardvark"} <= set(jd.available("weighting"))
    assert not {"zebra", "aardvark"} & set(jd.available("scalarizer"))


def test_listing_again_reads_nothing_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.weighting("jd-plugin-cached", "cached")
    before = jd.available()
    monkeypatch.setattr(discovery.importlib.metadata, "entry_points", None)
    assert jd.available() == before


def test_metadata_without_a_summary_is_listed(site: Site) -> None:
    site.weighting("jd-plugin-terse", "terse")
    metadata = site.folder / "jd_plugin_terse-1.0.dist-info" / "METADATA"
    metadata.write_text("Metadata-Version: 2.1\nName: jd-plugin-terse\nVersion: 1.0\n", "utf-8")
    (offer,) = discovery.catalogue().find("weighting", "terse")
    assert offer.summary == ""
    assert (offer.distribution, offer.version) == ("jd-plugin-terse", "1.0")


def test_a_folder_on_the_path_that_is_not_there_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend("/no/such/folder")
    assert "upgrad" in jd.available()
