"""Small problems keep to one thread, and leave everybody else's number as it was."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import scipy.linalg.lapack  # noqa: F401  # loads its own library, whose threads count too
import torch
from threadpoolctl import ThreadpoolController, threadpool_limits

from jdframework.linalg import on_host
from jdframework.linalg.threads import OneThread, calm
from jdframework.linalg.unit_problem import Array


def threads() -> set[int]:
    """How many each library for linear algebra would use."""
    libraries = ThreadpoolController().select(user_api="blas").info()
    return {library["num_threads"] for library in libraries}


@pytest.fixture(autouse=True)
def _two_threads() -> Iterator[None]:
    with threadpool_limits(2, user_api="blas"):
        if threads() != {2}:
            pytest.skip("the number of threads of this NumPy or SciPy cannot be set")
        yield


@pytest.mark.parametrize("size", [32, 256])
def test_problems_of_the_usual_size_keep_to_one_thread(size: int) -> None:
    with calm(size):
        assert threads() == {1}
    assert threads() == {2}


@pytest.mark.parametrize("size", [2, 1024])
def test_nothing_is_limited_where_it_does_not_pay(size: int) -> None:
    with calm(size):
        assert threads() == {2}


def test_the_limit_is_lifted_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), calm(64):
        assert 1 / 0
    assert threads() == {2}


def test_the_last_one_out_lifts_the_limit() -> None:
    first = second = OneThread()
    first.__enter__()
    second.__enter__()
    first.__exit__()
    assert threads() == {1}
    second.__exit__()
    assert threads() == {2}


def test_what_is_solved_on_the_host_is_solved_calmly() -> None:
    seen: set[int] = set()

    def solve(gramian: Array) -> Array:
        seen.update(threads())
        return gramian

    on_host(solve, torch.eye(64), shape=(64, 64))
    assert seen == {1}
