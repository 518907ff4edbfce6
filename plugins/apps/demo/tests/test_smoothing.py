"""Smoothed and thinned curves."""

from __future__ import annotations

import numpy as np

from jd_plugin_demo.smoothing import smoothed, thinned


def test_a_constant_stays_constant() -> None:
    assert np.allclose(smoothed(np.full(50, 3.0)), 3.0)


def test_each_point_is_the_mean_of_its_window() -> None:
    values = np.random.default_rng(0).normal(size=100)
    found = smoothed(values, share=0.1)
    assert np.isclose(found[50], values[45:56].mean())
    assert np.isclose(found[0], values[:6].mean())
    assert np.isclose(found[-1], values[-6:].mean())


def test_a_short_curve_is_drawn_whole_and_a_long_one_in_part() -> None:
    assert thinned(np.zeros(5)).tolist() == [0, 1, 2, 3, 4]
    long = thinned(np.zeros(10_000), most=300)
    assert (len(long), long[0], long[-1]) == (300, 0, 9999)


def test_a_curve_of_one_step_can_be_drawn() -> None:
    assert smoothed(np.array([2.0])).tolist() == [2.0]
    assert thinned(np.zeros(1)).tolist() == [0]
