"""The site as a reader sees it: on a desk and on a phone, light and dark, without scripts too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

Open: TypeAlias = Callable[..., Any]

WIDTHS = (1280, 390)
OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
FLAT_FORMULAS = """
    [...document.querySelectorAll("math")]
        .filter((formula) => formula.checkVisibility())
        .filter((formula) => formula.getBoundingClientRect().height < 5).length
"""
CUT_OFF = """
    [...document.querySelectorAll(".md-content :is(p, li, h1, h2, h3, pre, table, svg, math)")]
        .filter((part) => part.checkVisibility())
        .filter((part) => part.getBoundingClientRect().right > innerWidth + 1)
        .filter((part) => {
            for (let box = part; box; box = box.parentElement) {
                if (getComputedStyle(box).overflowX !== "visible") return false;
            }
            return true;
        }).map((part) => part.outerHTML.slice(0, 80))
"""
"""What reaches past the screen and cannot be scrolled to."""


@pytest.mark.slow
def test_no_page_overflows_asks_elsewhere_or_complains(
    site: Path, address: str, open_page: Open
) -> None:
    page = open_page()
    found: list[str] = []
    page.on("console", lambda said: found.append(f"{page.url}: {said.text}"))
    page.on("pageerror", lambda error: found.append(f"{page.url}: {error}"))
    page.on("response", lambda answer: found.extend(_failure(answer)))
    page.on("request", lambda request: found.extend(_elsewhere(request.url, address)))
    for path in sorted(site.rglob("*.html")):
        name = path.relative_to(site).as_posix()
        if name == "404.html":
            continue
        page.set_viewport_size({"width": WIDTHS[0], "height": 900})
        page.goto(address + name)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            if (pixels := page.evaluate(OVERFLOW)) > 0:
                found.append(f"{name}: {pixels} pixels too wide at {width}")
            found += [f"{name}: cut off at {width}: {part}" for part in page.evaluate(CUT_OFF)]
        if flat := page.evaluate(FLAT_FORMULAS):
            found.append(f"{name}: {flat} formulas are not drawn")
    assert found == [], "\n".join(found)


def _failure(answer: Any) -> list[str]:
    return [] if answer.ok or answer.status == 304 else [f"{answer.status}: {answer.url}"]


def _elsewhere(url: str, address: str) -> list[str]:
    return [] if url.startswith((address, "data:", "blob:")) else [f"asked for {url}"]


def test_a_formula_is_drawn_as_mathematics(open_page: Open) -> None:
    page = open_page("methods/upgrad.html")
    formula = page.locator("div.formula math").first
    box = formula.bounding_box()
    assert box["height"] > 20
    assert box["width"] > 100
    sums = formula.locator("mo", has_text="∑")
    assert sums.bounding_box()["height"] > 10


@pytest.mark.parametrize("width", WIDTHS)
def test_the_reader_turns_the_light_off_and_it_stays_off(open_page: Open, width: int) -> None:
    page = open_page("methods/upgrad.html", width, color_scheme="light")
    background = "getComputedStyle(document.body).backgroundColor"
    ink = "getComputedStyle(document.querySelector('figure.courses text')).fill"
    light = page.evaluate(background), page.evaluate(ink)
    page.locator("label.md-header__button[title=Dark]").click()
    dark = page.evaluate(background), page.evaluate(ink)
    assert _brightness(light[0]) > 200
    assert _brightness(light[1]) < 128
    assert _brightness(dark[0]) < 60
    assert _brightness(dark[1]) > 128
    page.reload()
    assert page.evaluate(background) == dark[0]


def test_a_reader_whose_system_is_dark_gets_the_dark_site(open_page: Open) -> None:
    page = open_page(color_scheme="dark")
    assert _brightness(page.evaluate("getComputedStyle(document.body).backgroundColor")) < 100


def _brightness(colour: str) -> float:
    numbers = colour[colour.index("(") + 1 : -1].split(",")[:3]
    return sum(map(float, numbers)) / 3


@pytest.mark.parametrize("width", WIDTHS)
def test_search_finds_a_method(open_page: Open, width: int) -> None:
    page = open_page(width=width)
    if width < 1000:
        page.locator("label.md-header__button[for=__search]").click()
    page.wait_for_load_state("networkidle")  # what is typed before the index is there is lost
    page.locator(".md-search__input").press_sequentially("imtl", delay=200)
    results = page.locator("a.md-search-result__link")
    results.first.wait_for(timeout=90_000)
    links = [results.nth(i).get_attribute("href") for i in range(results.count())]
    assert any("methods/imtl" in link for link in links)


def names(page: Any) -> list[str]:
    """The methods that the table shows, from above."""
    shown = page.locator("table.methods tbody tr:not([hidden]) td:first-child a")
    return [text.strip() for text in shown.all_inner_texts()]


def test_the_table_of_methods_is_filtered_by_each_choice_and_by_words(open_page: Open) -> None:
    page = open_page("methods.html")
    everything = names(page)
    assert {"upgrad", "uw", "graddrop", "modo"} <= set(everything)
    status = page.locator(".methods-count")
    assert status.inner_text() == f"{len(everything)} of {len(everything)} methods"
    page.get_by_label("Kind").select_option("scalarizer")
    assert "uw" in names(page)
    assert "upgrad" not in names(page)
    page.get_by_label("State").select_option("learned")
    assert names(page) == ["imtl-l", "uw"]
    assert status.inner_text() == f"2 of {len(everything)} methods"
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Looks at").select_option("cross-gramian")
    assert names(page) == ["modo", "sdmgrad"]
    page.get_by_role("button", name="Show all").click()
    page.get_by_label("Find").fill("dual CONE")
    assert names(page) == ["dual-proj", "upgrad"]
    page.get_by_label("Find").fill("")
    assert names(page) == everything


def test_the_table_of_methods_is_sorted_by_keyboard_alone(open_page: Open) -> None:
    page = open_page("methods.html")
    years = page.locator("table.methods tbody td:nth-child(5)")
    head = page.locator("table.methods th", has_text="Year")
    head.get_by_role("button").focus()
    page.keyboard.press("Enter")
    rising = [text for text in years.all_inner_texts() if text]
    assert rising == sorted(rising)
    assert head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    falling = years.all_inner_texts()
    assert [text for text in falling if text] == rising[::-1]
    assert falling[-1] == ""
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator("table.methods th[aria-sort]").count() == 1


def test_without_scripts_the_methods_are_a_plain_table(open_page: Open) -> None:
    page = open_page("methods.html", java_script_enabled=False)
    assert len(names(page)) > 30
    assert page.locator("table.methods thead th").first.inner_text() == "Name"
    assert page.locator(".methods-filters").count() == 0


@pytest.mark.parametrize("width", WIDTHS)
def test_every_plot_of_the_benchmarks_is_there(open_page: Open, width: int) -> None:
    page = open_page("benchmarks.html", width)
    plots = page.locator("p.plot img")
    assert plots.count() > 0
    for i in range(plots.count()):
        plots.nth(i).scroll_into_view_if_needed()
        page.wait_for_function("image => image.naturalWidth > 0", arg=plots.nth(i).element_handle())
