"""Addresses elsewhere have the form of one, and the check finds those that have not."""

from __future__ import annotations

import pytest

import links


def test_every_address_of_the_repository_has_the_right_form() -> None:
    found = links.links()
    assert list(links.mistakes(found)) == []
    assert "https://arxiv.org/abs/2406.16232" in found
    assert "README.md" in found["https://arxiv.org/abs/2406.16232"]


@pytest.mark.parametrize(
    ("address", "mistake"),
    [
        ("http://pytorch.org/", "is not https"),
        ("https://pytorch/get", "has no host that can be"),
        ("https://arxiv.org/abs/2406.162", "is no address of a paper on arXiv"),
        ("https://doi.org/xyz", "is no DOI"),
        ("https://pytorch.org//get", "has an empty part"),
    ],
)
def test_an_address_that_cannot_be_right_is_named_with_its_file(address: str, mistake: str) -> None:
    assert list(links.mistakes({address: ["a.md"]})) == [f"{address} {mistake}: a.md"]


def test_what_a_reader_has_to_fill_in_is_no_link() -> None:
    text = "url = https://…, http://127.0.0.1:8000/, https://example.com/x, https://arxiv.org/abs/…"
    assert list(links.addresses(text)) == []
