"""On an accelerator a method waits for the device at most once a call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import jdframework as jd
from jdframework.protocols.names import Kind
from jdframework.testing import derived_suite
from jdframework.testing.simulated_device import (
    DEVICE,
    Accelerator,
    MixedDevicesError,
    SimulatedTensor,
    there,
)

METHODS: list[tuple[Kind, str]] = [
    (kind, name)
    for kind in ("weighting", "aggregator")
    for name in jd.available(kind)  # type: ignore[arg-type]  # of the tuple above
]


@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_a_method_waits_for_the_device_once(kind: Kind, name: str) -> None:
    suite: Any = derived_suite(kind, name)()
    suite._adopt_claims()
    method, control = suite.make(), suite.make()
    with Accelerator() as accelerator:
        method.to(DEVICE)
        for step in range(2):
            sample = suite.sample(step)
            given, extra = suite.inputs(control, sample)
            accelerator.waits.clear()
            found = method(there(given), **{key: there(value) for key, value in extra.items()})
            waits = dict(accelerator.waits)
            expected = control(given, **extra)
            assert isinstance(found, SimulatedTensor), "the result was left on the host"
            torch.testing.assert_close(found.held, expected)
            assert sum(waits.values()) <= 1, f"step {step}: {waits}"


def test_waiting_twice_is_found() -> None:
    with Accelerator() as accelerator:
        values = there(torch.ones(3))
        assert bool(values.isfinite().all())
        assert float(values.sum()) == 3.0
        assert sum(accelerator.waits.values()) == 2
        assert values.cpu().tolist() == [1.0, 1.0, 1.0]
        assert sum(accelerator.waits.values()) == 3


def test_mixing_devices_is_found() -> None:
    with Accelerator(), pytest.raises(MixedDevicesError, match="on the same device"):
        there(torch.ones(3)) + torch.ones(3)
