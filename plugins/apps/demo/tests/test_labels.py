"""Labels beside curves."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jdframework.testing.strategies import REPEATABLE

from jd_plugin_demo.labels import spread

HEIGHTS = st.lists(st.floats(-0.2, 1.2), min_size=1, max_size=8)


@REPEATABLE
@given(HEIGHTS)
def test_no_two_labels_touch_and_all_stay_inside(heights: list[float]) -> None:
    placed = sorted(spread(heights, gap=0.1, low=0.0, high=1.0))
    assert placed[0] >= 0.0
    assert placed[-1] <= 1.0 + 1e-9
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(placed))


@REPEATABLE
@given(HEIGHTS)
def test_labels_keep_the_order_of_their_curves(heights: list[float]) -> None:
    placed = spread(heights, gap=0.1, low=0.0, high=1.0)
    by_height = sorted(zip(heights, placed, strict=True))
    for (height, place), (other, other_place) in pairwise(by_height):
        if height < other:
            assert place < other_place


def test_labels_with_room_stay_where_their_curves_end() -> None:
    assert spread([0.1, 0.9, 0.5], gap=0.1, low=0.0, high=1.0) == pytest.approx([0.1, 0.9, 0.5])


def test_labels_that_collide_move_equally_far() -> None:
    assert spread([0.5, 0.52], gap=0.1, low=0.0, high=1.0) == pytest.approx([0.46, 0.56])
