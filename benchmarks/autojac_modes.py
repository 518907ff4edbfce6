"""Rows one by one or batched with vmap: what the rule in autojac's ``chunk_size.py`` rests on.

Each line is one kind of graph; the columns are the ways to take its rows, and what the engine
chooses by itself. The choice is right where its time is close to the smallest of the line.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor, nn

import jdframework as jd

from jd_plugin_bench.timing import interleaved

_WAYS: Final[dict[str, int | None]] = {
    "one by one": 1,
    "8 at once": 8,
    "32 at once": 32,
    "chosen": None,
}


class _Last(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.layer(x)[0]
        return output[:, -1]


def _mlp(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _cnn() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 144, 40),
    )


def _instances(output: Tensor) -> Tensor:
    return output.flatten(1).square().mean(1)


def _tasks(count: int) -> Callable[[Tensor], Tensor]:
    def losses(output: Tensor) -> Tensor:
        columns = output.flatten(1)
        return torch.stack([columns[:, task::count].square().mean() for task in range(count)])

    return losses


def _cases(quick: bool) -> dict[str, tuple[nn.Module, Tensor, Callable[[Tensor], Tensor]]]:
    small, images = torch.randn(64, 20), torch.randn(32, 1, 12, 12)
    sequences = torch.randn(16, 16, 64)
    transformer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    tokens = torch.randint(1000, (32, 10))
    embedding = nn.Sequential(nn.Embedding(1000, 32), nn.Flatten(), nn.Linear(320, 40))
    cases = {
        "small MLP, 64 instances": (_mlp(20, 32, 32, 64), small, _instances),
        "small MLP, 2 tasks": (_mlp(20, 32, 32, 64), small, _tasks(2)),
        "small MLP, 10 tasks": (_mlp(20, 32, 32, 64), small, _tasks(10)),
        "CNN, 2 tasks": (_cnn(), images, _tasks(2)),
        "CNN, 32 instances": (_cnn(), images, _instances),
        "transformer layer, 3 tasks": (transformer, sequences, _tasks(3)),
        "LSTM, 4 tasks": (_Last(nn.LSTM(64, 32, batch_first=True)), sequences, _tasks(4)),
        "embedding, 3 tasks": (embedding, tokens, _tasks(3)),
    }
    if not quick:
        large, wide = torch.randn(128, 784), (784, 1024, 1024, 256)
        cases["large MLP, 3 tasks"] = (_mlp(*wide), large, _tasks(3))
        cases["large MLP, 40 tasks"] = (_mlp(*wide), large, _tasks(40))
        cases["large MLP, 64 instances"] = (_mlp(*wide), large[:64], _instances)
    return cases


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    torch.manual_seed(0)
    # torch says where vmap has to loop; that is part of what is measured here.
    warnings.filterwarnings("ignore", message="There is a performance drop")
    cases = _cases(given.quick)
    rows: list[Mapping[str, Any]] = []
    with progress(len(cases)) as advance:
        for name, (model, x, losses) in cases.items():
            advance(name)
            model.to(given.device)
            rows.append({"graph": name, **_measured(model, x.to(given.device), losses)})
    ways = [{k: _text(v) for k, v in row.items()} for row in rows]
    show("The Gramian by autojac, ms", ways)
    print(f"wrote {write('autojac_modes', given, rows)}")


def _measured(model: nn.Module, x: Tensor, losses: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    values = losses(model(x))
    engines = {
        way: jd.engine("autojac", model, parallel_chunk_size=size) for way, size in _WAYS.items()
    }
    times = interleaved(
        {way: partial(engine.compute_gramian, values) for way, engine in engines.items()},
        rounds=7,
    )
    best = min(timing.median for timing in times.values())
    return {**times, "chosen / best": times["chosen"].median / best}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{value:.2f}" if isinstance(value, float) else f"{1e3 * value.median:.3g}"


if __name__ == "__main__":
    main()
