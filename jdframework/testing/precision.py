"""The devices and the dtypes on which a method has to work."""

from __future__ import annotations

import itertools
from typing import Final

import torch

DTYPES: Final = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""The floating dtypes that every method takes."""


def devices() -> list[torch.device]:
    """The CPU, and the accelerator if there is one."""
    found = [torch.device("cpu")]
    if torch.accelerator.is_available():
        found.append(torch.device(torch.accelerator.current_accelerator() or "cpu"))
    return found


def precisions() -> list[tuple[torch.device, torch.dtype]]:
    """Each floating dtype on each device that has it."""
    everything = itertools.product(devices(), DTYPES)
    return [(device, dtype) for device, dtype in everything if _exists(device, dtype)]


def _exists(device: torch.device, dtype: torch.dtype) -> bool:
    return device.type != "mps" or dtype != torch.float64
