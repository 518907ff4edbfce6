"""The example plugins, built and installed: what they add to the framework works."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import wheelhouse as builder

from .environments import Environment

EXAMPLES = builder.ROOT / "examples" / "plugins"

TRAINS = """
import torch, jdframework as jd
model = torch.nn.Linear(3, 2)
descent = jd.Descent(model, "mean", engine="autojac")
for _ in range(3):
    losses = model(torch.ones(3)).square()
    descent.backward({"depth": losses[0], "normals": losses[1]})
"""

FALLS_BACK = """
import torch, jdframework as jd
model = torch.compile(torch.nn.Linear(3, 2), backend="aot_eager")
jd.Descent(model, "mean", engine={"name": "autojac", "parallel_chunk_size": 2}).backward(
    model(torch.ones(3)).square()
)
"""


SERVES_A_LAYER = """
import torch, jdframework as jd
from torch import nn
from jd_rule_scale import Scale, ScaleRule
from jd_plugin_autogram.rules import rules

assert type(rules()[Scale]) is ScaleRule
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(4, 8), Scale(8), nn.Tanh(), nn.Linear(8, 2)).double()
nn.init.normal_(model[1].factors)
for shape, batch_dim in (((6, 4), 0), ((6, 3, 4), 0), ((6, 4), None)):
    x = torch.randn(shape, dtype=torch.float64)
    def losses():
        found = model(x).square()
        return found.flatten(1).sum(1) if batch_dim == 0 else found.mean(0)
    engine = jd.engine("autogram", model, batch_dim=batch_dim)
    expected = jd.engine("autojac", model).compute_gramian(losses())
    torch.testing.assert_close(engine.compute_gramian(losses()), expected)
    assert engine.verify(losses()) < 1e-12
    engine.close()
"""


@pytest.fixture(scope="module")
def environment(
    wheelhouse: Path, third_party: Path, tmp_path_factory: pytest.TempPathFactory
) -> Environment:
    """An environment with the kernel, what trains, and the observers."""
    environment = Environment(tmp_path_factory.mktemp("examples") / "environment", third_party)
    built = tmp_path_factory.mktemp("built")
    wheels = [
        str(builder.build_wheel(EXAMPLES / name, built))
        for name in ("jd-hook-step-log", "jd-hook-steps-command", "jd-rule-scale")
    ]
    ours = ["jdframework", "jd-plugin-autogram", "jd-plugin-autojac", "jd-plugin-mean"]
    environment.install(wheelhouse, "--no-deps", *ours, *wheels)
    return environment


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the steps are logged."""
    monkeypatch.setenv("JD_STEP_LOG", str(tmp_path / "steps.jsonl"))
    return tmp_path / "steps.jsonl"


def events(log: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in log.read_text("utf-8").splitlines()]


def test_an_installed_observer_sees_what_is_resolved_and_each_step(
    environment: Environment, log: Path
) -> None:
    done = environment.run("-c", TRAINS, folder=log.parent)
    assert done.returncode == 0, done.stderr
    found = events(log)
    assert [e["event"] for e in found] == ["resolved", "resolved", "step", "step", "step"]
    assert {e["name"] for e in found[:2]} == {"mean", "autojac"}
    assert found[-1]["names"] == ["depth", "normals"]
    assert found[-1]["weights"] == [0.5, 0.5]
    assert found[-1]["engine"] == "autojac"


def test_an_installed_observer_sees_a_fallback(environment: Environment, log: Path) -> None:
    done = environment.run("-c", FALLS_BACK, folder=log.parent)
    assert done.returncode == 0, done.stderr
    (fallback,) = [event for event in events(log) if event["event"] == "fallback"]
    assert fallback["name"] == "autojac"
    assert "torch.vmap cannot run" in str(fallback["reason"])


def test_an_installed_observer_adds_a_command(environment: Environment, log: Path) -> None:
    environment.run("-c", TRAINS, folder=log.parent)
    command = environment.python.with_name("jd")
    done = environment.run(command, "steps", str(log), folder=log.parent)
    assert done.returncode == 0, done.stderr
    head, depth, normals = done.stdout.splitlines()
    assert head == "3 steps, 0 skipped"
    assert depth.startswith("depth: mean loss ")
    assert normals.endswith("mean weight 0.500")
    assert "steps" in environment.run(command, "--help", folder=log.parent).stdout
    refused = environment.run(command, "steps", "nowhere.jsonl", folder=log.parent)
    assert refused.returncode == 2


def test_an_installed_rule_serves_a_layer_of_its_own(environment: Environment, log: Path) -> None:
    done = environment.run("-c", SERVES_A_LAYER, folder=log.parent)
    assert done.returncode == 0, done.stderr
