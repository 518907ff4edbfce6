"""Autocast around a step, and a process group around a program, change no step in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import jdframework as jd


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("engine", ["autojac", "autogram", "chunked"])
@pytest.mark.parametrize("instances", [True, False])
def test_autocast_around_backward_changes_nothing(
    engine: str, dtype: torch.dtype, instances: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    x = torch.randn(5, 6) * 3

    def step(inside: bool) -> tuple[jd.Step, list[torch.Tensor]]:
        model.zero_grad()
        dim = 0 if instances else None
        descent = jd.Descent(model, "upgrad", engine=engine, batch_dim=dim)
        losses = model(x).square().mean(1 if instances else 0)
        with torch.autocast("cpu", dtype=dtype, enabled=inside):
            found = descent.backward(losses)
        return found, [p.grad for p in model.parameters() if p.grad is not None]

    inside, given = step(True)
    outside, expected = step(False)
    assert inside.gramian is not None
    assert outside.gramian is not None
    assert inside.gramian.dtype == torch.float32
    assert torch.equal(inside.gramian, outside.gramian)
    for mine, theirs in zip(given, expected, strict=True):
        assert torch.equal(mine, theirs)


def test_autocast_around_an_engines_own_backward_changes_nothing() -> None:
    model = nn.Linear(6, 4)
    engine, method = jd.engine("autojac", model), jd.weighting("upgrad")
    losses = model(torch.randn(5, 6)).square().mean(0)
    expected = engine.backward(losses, method, retain_graph=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = engine.backward(losses, method)
    assert torch.equal(found, expected)


def test_autocast_around_the_functional_interface_changes_nothing() -> None:
    model, head = nn.Linear(6, 4), nn.Linear(4, 2)
    x = torch.randn(5, 6)

    def gradients(inside: bool) -> list[torch.Tensor]:
        found = []
        for way in ("backward", "features", "fields"):
            model.zero_grad()
            features = model(x)
            losses = list(head(features).square().mean(0))
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=inside):
                if way == "features":
                    jd.mtl_backward(losses, features, "upgrad")
                elif way == "backward":
                    jd.backward(losses, "upgrad", list(model.parameters()))
                else:
                    jd.backward(losses, inputs=list(model.parameters()))
                    jd.jac_to_grad(model.parameters(), "upgrad")
            assert model.weight.grad is not None
            found.append(model.weight.grad)
        return found

    for mine, theirs in zip(gradients(True), gradients(False), strict=True):
        assert torch.equal(mine, theirs)


JOB = """
import sys
import torch
import torch.distributed as dist
import jdframework as jd
from torch import nn
from torch.nn.parallel import DistributedDataParallel

rank, meeting = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
torch.manual_seed(0)
model = DistributedDataParallel(nn.Linear(3, 2)).module
losses = lambda: model(torch.ones(4, 3) * (1 + rank)).square().mean(0)
for method, settings in [
    ("upgrad", {}), ("upgrad", {"engine": "autojac"}), ("uw", {"shape": 2}), ("geometric-mean", {})
]:
    try:
        jd.Descent(model, method, **settings).backward(losses())
    except jd.UnsupportedModelError as refusal:
        assert "process_group=False" in str(refusal), refusal
    else:
        raise AssertionError(f"{method} went on alone")
    assert model.weight.grad is None
jd.Descent(model, "upgrad", process_group=False).backward(losses())
model.zero_grad()
for refused in (
    lambda: jd.engine("autojac", model).backward(losses(), jd.weighting("upgrad")),
    lambda: jd.backward(losses(), "upgrad"),
):
    try:
        refused()
    except jd.UnsupportedModelError as refusal:
        assert "process_group=False" in str(refusal), refusal
    else:
        raise AssertionError("it went on alone")
wrapped = DistributedDataParallel(nn.Linear(3, 2))
jd.Descent(wrapped, "mean").backward(wrapped(torch.ones(4, 3) * (1 + rank)).square().mean(0))
total = wrapped.module.weight.grad.clone()
dist.all_reduce(total)
assert torch.allclose(total / 2, wrapped.module.weight.grad)
dist.destroy_process_group()
"""


def test_a_rank_among_several_never_weighs_its_own_losses_alone(tmp_path: Path) -> None:
    script = tmp_path / "job.py"
    script.write_text(JOB, "utf-8")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting")],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        _, said = rank.communicate(timeout=120)
        assert rank.returncode == 0, said
