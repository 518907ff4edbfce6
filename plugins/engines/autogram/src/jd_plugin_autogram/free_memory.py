"""How much memory may hold what a step keeps from the Gramian for the update."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Final

import torch

_UNITS: Final = {"B": 1, "KB": 2**10, "MB": 2**20, "GB": 2**30, "TB": 2**40}


def bytes_of(setting: float | str, device: torch.device) -> int:
    """What a ``memory`` setting comes to now.

    :param setting: A share of what is free, or an amount such as ``"4GB"``.
    :param device: Where the model is.
    :raises ValueError: if the amount cannot be read.
    """
    if isinstance(setting, str):
        return amount(setting)
    return int(setting * _free(device))


def amount(text: str) -> int:
    """``"4GB"`` in bytes; powers of 1024.

    :raises ValueError: if the text is no number with one of the units B, KB, MB, GB, TB.
    """
    cleaned = text.strip().upper().replace("IB", "B")
    unit = next((u for u in sorted(_UNITS, key=len, reverse=True) if cleaned.endswith(u)), None)
    try:
        number = float(cleaned.removesuffix(unit or ""))
    except ValueError:
        number = math.nan
    if unit is None or not 0 <= number < math.inf:
        raise ValueError(f"{text!r} is no amount of memory such as '500MB' or '4GB'")
    return int(number * _UNITS[unit])


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        reserved = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0] + reserved)
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:  # not every system tells
        return 2 * _UNITS["GB"]
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * _UNITS["KB"]
