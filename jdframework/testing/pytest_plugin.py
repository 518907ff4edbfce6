"""Fixtures for the tests of a plugin; pytest finds them as soon as the kernel is installed.

``jd_family``
    Each family of Jacobians on which methods go wrong, :data:`jdframework.testing.FAMILIES`.
``jd_jacobian``
    A Jacobian ``[3, n]`` of each family, in float64 on the CPU.
``jd_device``
    Each device that is here: the CPU, and the accelerator if there is one.
``jd_dtype``
    Each floating dtype that methods must take: float16, bfloat16, float32, float64.

A test that takes one of them by name runs once for each value. Nothing is imported for the tests
that take none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from jdframework.testing import Family

_OBJECTIVES = 3


@pytest.fixture
def jd_family(request: pytest.FixtureRequest) -> Family:
    """Each family of Jacobians."""
    family: Family = request.param
    return family


@pytest.fixture
def jd_device(request: pytest.FixtureRequest) -> torch.device:
    """Each device that is here."""
    device: torch.device = request.param
    return device


@pytest.fixture
def jd_dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Each floating dtype."""
    dtype: torch.dtype = request.param
    return dtype


@pytest.fixture
def jd_jacobian(jd_family: Family) -> Tensor:
    """A Jacobian ``[3, n]`` of each family, in float64 on the CPU."""
    return jd_family(_OBJECTIVES)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Gives the fixtures their values, once a test asks for them."""
    wanted = {"jd_family", "jd_device", "jd_dtype"} & set(metafunc.fixturenames)
    if not wanted:
        return
    from jdframework.testing import DTYPES, FAMILIES, devices

    values: dict[str, tuple[list[Any], Any]] = {
        "jd_family": (list(FAMILIES.values()), str),
        "jd_device": (devices(), str),
        "jd_dtype": (list(DTYPES), lambda dtype: str(dtype).removeprefix("torch.")),
    }
    for name in sorted(wanted):
        given, label = values[name]
        metafunc.parametrize(name, given, ids=label, indirect=True)
