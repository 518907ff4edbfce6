"""Amounts of memory: what a text such as ``4GB`` means, and how much is free."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import torch

from jdframework.errors import ConfigError

_UNITS: Final = {
    "": 1,
    "k": 10**3,
    "m": 10**6,
    "g": 10**9,
    "t": 10**12,
    "ki": 2**10,
    "mi": 2**20,
    "gi": 2**30,
    "ti": 2**40,
}
_AMOUNT: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?i?)b", re.IGNORECASE)
_CGROUPS: Final = Path("/sys/fs/cgroup")
_UNLIMITED: Final = 1 << 62


def in_bytes(amount: str) -> int:
    """The number of bytes that a text such as ``4GB`` means.

    :param amount: A number and a unit: B, KB, MB, GB, TB, or KiB, MiB, GiB, TiB.
    :raises ValueError: if it is none.

    >>> in_bytes("4GB"), in_bytes("1.5 MiB")
    (4000000000, 1572864)
    """
    found = _AMOUNT.fullmatch(amount.strip())
    if found is None or found[2].lower() not in _UNITS:
        raise ValueError("an amount is a number and a unit, as '500MB' or '4GB'")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def in_words(size: int) -> str:
    """A number of bytes in readable units.

    :param size: That number.

    >>> in_words(316), in_words(4_250_000_000)
    ('316 B', '4.2 GB')
    """
    amount, unit = float(size), "B"
    for larger in ("KB", "MB", "GB", "TB"):
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    return f"{amount:.{0 if unit == 'B' or amount >= 99.95 else 1}f} {unit}"


def setting_in_bytes(setting: str | float, device: torch.device) -> int:
    """The number of bytes that a memory setting allows now.

    :param setting: An amount such as ``"4GB"``, or a share of what is free on ``device``.
    :param device: Any.
    :raises ValueError: if the amount is none.
    :raises ConfigError: if a share is asked for, and this system does not tell what is free.
    """
    if isinstance(setting, str):
        return in_bytes(setting)
    return int(setting * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """The bytes that a process may still allocate on ``device``, torch's own cache included.

    :param device: Any; for ``cpu`` it is :func:`free_on_host`.
    :raises ConfigError: if this system does not tell.
    """
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        hoarded = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + hoarded
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return free_on_host()


def free_on_host(meminfo: Path = Path("/proc/meminfo"), cgroups: Path = _CGROUPS) -> int:
    """The host's memory that is free or can be freed, within what its container allows.

    :param meminfo: Where the kernel tells what the machine has.
    :param cgroups: Where it tells what a container may take.
    :raises ConfigError: if this system does not tell.
    """
    try:
        lines = meminfo.read_text("utf-8").splitlines()
    except OSError:
        return _without_meminfo()
    available = next(line for line in lines if line.startswith("MemAvailable:"))
    return min(int(available.split()[1]) * 1024, _within_container(cgroups))


def _within_container(cgroups: Path) -> int:
    """What is left of the limit of the process's control group (version 2), if it has one."""
    try:
        limit = (cgroups / "memory.max").read_text("utf-8").strip()
        used = int((cgroups / "memory.current").read_text("utf-8"))
        statistics = (cgroups / "memory.stat").read_text("utf-8").splitlines()
    except OSError:
        return _UNLIMITED
    if limit == "max":
        return _UNLIMITED
    # The page cache counts as used, but gives way.
    cache = next((line for line in statistics if line.startswith("inactive_file ")), "0 0")
    return max(int(limit) - used + int(cache.split()[1]), 0)


def _without_meminfo() -> int:
    """Half of what the machine has, where the system does not tell what is free."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, ValueError, OSError):
        raise ConfigError(
            "this system does not tell how much memory is free: give an amount, as memory='4GB'"
        ) from None
