"""A model that is wrapped for several processes is refused by what serves one process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import jdframework as jd
from jdframework.registry import resolve

from .subjects import ENGINES

ALONE = [name for name in ENGINES if "sharded" not in resolve("engine", name).capabilities]
"""The engines of one process."""
WAYS: list[dict[str, Any]] = [{"on": "features"}, *({"engine": name} for name in ALONE)]
if ALONE == ENGINES:
    WAYS.append({"engine": "auto"})


@pytest.fixture(scope="module", autouse=True)
def _process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A real one, of this process alone."""
    if dist.is_initialized():
        yield
        return
    meeting: Path = tmp_path_factory.mktemp("group") / "meeting"
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_replica_is_refused_by_every_engine_of_one_process(way: dict[str, Any]) -> None:
    model = DistributedDataParallel(nn.Linear(2, 2))
    with pytest.raises(jd.UnsupportedModelError) as refusal:
        jd.Descent(model, "upgrad", **way)
    assert "wrapped by DistributedDataParallel" in str(refusal.value)
    assert str(refusal.value).startswith("train in one process on the module inside, or by 'sum'")
    assert str(refusal.value).count("gradient synchronisation") == 1


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_sharded_model_is_refused_by_every_engine_of_one_process(way: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(jd.UnsupportedModelError, match=r"train in one process.*FSDPModule"):
        jd.Descent(model, "upgrad", **way)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_wrapped_part_is_found(way: dict[str, Any]) -> None:
    model = nn.Sequential(nn.Linear(2, 2), DistributedDataParallel(nn.Linear(2, 2)))
    with pytest.raises(jd.UnsupportedModelError, match="DistributedDataParallel"):
        jd.Descent(model, "upgrad", **way)
