"""How much memory a setting means, and how much is free."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jdframework.autograd.memory import free_on_host, in_bytes, setting_in_bytes


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        ("500MB", 500_000_000),
        ("4GB", 4_000_000_000),
        (" 1.5 gib ", 3 * 2**29),
        ("64KiB", 65536),
        ("100B", 100),
    ],
)
def test_amounts_are_read(amount: str, expected: int) -> None:
    assert in_bytes(amount) == expected


@pytest.mark.parametrize("amount", ["4", "four GB", "4 XB", "-1GB", "4ib", ""])
def test_what_is_no_amount_is_refused(amount: str) -> None:
    with pytest.raises(ValueError, match="as '500MB' or '4GB'"):
        in_bytes(amount)


def test_a_setting_is_an_amount_or_a_share_of_what_is_free() -> None:
    device = torch.device("cpu")
    assert setting_in_bytes("1MB", device) == 1_000_000
    assert 0 < setting_in_bytes(0.25, device) < setting_in_bytes(1.0, device)


def test_a_container_has_no_more_than_its_limit_leaves(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable:    8000 kB\n")
    assert free_on_host(meminfo, tmp_path) == 8_192_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("4000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
    assert free_on_host(meminfo, tmp_path) == 8_192_000
    (tmp_path / "memory.max").write_text("5000000\n")
    assert free_on_host(meminfo, tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("2000000\n")
    assert free_on_host(meminfo, tmp_path) == 0
