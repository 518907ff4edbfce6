from __future__ import annotations

import warnings

import pytest
import torch

import jdframework as jd
from jdframework.linalg import host


def test_a_problem_that_takes_long_is_told_once_with_what_takes_less(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(host, "_PATIENCE", 0.0)
    monkeypatch.setattr(host, "_told", set())
    gramian = torch.eye(3)
    with pytest.warns(UserWarning, match=r"weights of 3 objectives took 0 s.*take fewer"):
        jd.weighting("upgrad")(gramian)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jd.weighting("mgda")(gramian)


def test_a_quick_problem_is_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "_told", set())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jd.weighting("upgrad")(torch.eye(3))
