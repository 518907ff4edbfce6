from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

import jdframework as jd

if TYPE_CHECKING:
    from conftest import Site

BROKEN = {
    "missing dependency": ("import a_package_that_nobody_has", "ModuleNotFoundError"),
    "error on import": ("1 / 0", "ZeroDivisionError"),
    "syntax error": ("def method(:", "SyntaxError"),
    "program that ends": ("import sys; sys.exit(3)", "SystemExit"),
    "no such class": ("", "AttributeError"),
}


@pytest.mark.parametrize("source", BROKEN)
def test_a_plugin_that_cannot_be_imported_names_itself_and_the_cause(
    site: Site, source: str
) -> None:
    code, cause = BROKEN[source]
    module = site.module(code)
    site.install("jd-plugin-broken", {"jdframework.weightings": {"broken": f"{module}:Method"}})
    with pytest.raises(jd.PluginLoadError) as error:
        jd.weighting("broken")
    assert str(error.value).startswith(
        f"the weighting 'broken' of jd-plugin-broken 1.0 cannot be imported ({cause}: "
    )
    assert type(error.value.__cause__).__name__ == cause


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("import a_package.inner", "it needs the package 'a_package', which is not installed"),
        ("1 / 0", "reinstall or remove that distribution"),
        ("", "pip install --force-reinstall jd-plugin-broken"),
    ],
)
def test_the_remedy_is_that_of_the_cause(site: Site, source: str, remedy: str) -> None:
    module = site.module(source)
    site.install("jd-plugin-broken", {"jdframework.weightings": {"broken": f"{module}:Method"}})
    with pytest.raises(jd.PluginLoadError, match=f"{remedy}$"):
        jd.weighting("broken")


def test_metadata_without_its_module_asks_for_a_reinstallation(site: Site) -> None:
    site.install("jd-plugin-gone", {"jdframework.weightings": {"gone": "long.gone:Method"}})
    with pytest.raises(jd.PluginLoadError, match="pip install --force-reinstall jd-plugin-gone$"):
        jd.weighting("gone")


def test_a_plugin_for_another_kernel_is_refused_before_it_is_imported(site: Site) -> None:
    module = site.module("raise AssertionError")
    groups = {"jdframework.weightings": {"foreign": f"{module}:Method"}}
    site.install("jd-plugin-foreign", groups, requires=["torch", "jdframework>=7,<8"])
    with pytest.raises(jd.PluginLoadError) as error:
        jd.weighting("foreign")
    assert str(error.value) == (
        f"the weighting 'foreign' of jd-plugin-foreign 1.0 was made for jdframework<8,>=7, but "
        f"jdframework {jd.__version__} is installed: "
        f"pip install --upgrade jdframework jd-plugin-foreign"
    )


@pytest.mark.parametrize("requirement", ["jdframework", "jdframework>=0.1,<99", "not a: valid one"])
def test_a_plugin_for_this_kernel_is_not_refused(site: Site, requirement: str) -> None:
    module = site.module(
        "from jdframework.bases import GramianWeighting\n"
        "class Method(GramianWeighting):\n"
        "    def forward(self, gramian): return gramian[0]\n"
    )
    groups = {"jdframework.weightings": {"fitting": f"{module}:Method"}}
    site.install("jd-plugin-fitting", groups, requires=[requirement])
    assert jd.weighting("fitting").name == "fitting"


def test_listing_and_other_names_keep_working(site: Site) -> None:
    module = site.module("1 / 0")
    site.install("jd-plugin-broken", {"jdframework.weightings": {"broken": f"{module}:Method"}})
    assert "broken" in jd.available("weighting")
    assert jd.weighting("upgrad").name == "upgrad"
    assert module not in sys.modules


def test_a_failed_import_is_tried_again(site: Site) -> None:
    module = site.module("1 / 0")
    site.install("jd-plugin-mended", {"jdframework.weightings": {"mended": f"{module}:Method"}})
    with pytest.raises(jd.PluginLoadError):
        jd.weighting("mended")
    site.write(
        module,
        "from jdframework.bases import GramianWeighting\n"
        "class Method(GramianWeighting):\n"
        "    def forward(self, gramian): return gramian[0]\n",
    )
    assert jd.weighting("mended").name == "mended"


@pytest.mark.parametrize(
    ("code", "complaint"),
    [
        ("Method = 3", "it is int 3, not a class"),
        ("class Method: pass", "Method does not derive from jdframework.bases.Weighting"),
        (
            "from jdframework.bases import GramianWeighting\nclass Method(GramianWeighting): pass",
            "Method does not define forward",
        ),
        (
            (
                "from jdframework.bases import Scalarizer\n"
                "class Method(Scalarizer):\n"
                "    def forward(self, losses): return losses.sum()"
            ),
            "Method does not derive from jdframework.bases.Weighting",
        ),
    ],
)
def test_what_is_no_method_is_refused_with_the_reason(
    site: Site, code: str, complaint: str
) -> None:
    module = site.module(code)
    site.install("jd-plugin-odd", {"jdframework.weightings": {"odd": f"{module}:Method"}})
    with pytest.raises(jd.PluginLoadError) as error:
        jd.weighting("odd")
    assert str(error.value) == (
        f"the weighting 'odd' of jd-plugin-odd 1.0 is not usable: {complaint}"
    )


def test_a_broken_plugin_is_an_import_error() -> None:
    assert issubclass(jd.PluginLoadError, ImportError)
