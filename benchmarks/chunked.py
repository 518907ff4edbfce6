"""What a step of the engine chunked costs where it may take a part of autojac's memory only.

Each line is one method and one way to keep the rows. For 1/2, 1/4 and 1/8 of the peak that autojac
has on the same step there are two figures: the peak of chunked as a share of autojac's, and its
time over autojac's, compared round by round. The model, its gradients and the graph count in all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor, nn

import jdframework as jd

from jd_plugin_bench.live_memory import peak_bytes
from jd_plugin_bench.timing import Ratio, measured, ratio

_METHODS: Final[dict[str, dict[str, Any]]] = {
    "upgrad": {},
    "trimmed-mean": {"trim_number": 2},
}
_SHARES: Final = {"1/2": 0.5, "1/4": 0.25, "1/8": 0.125}


class _Case:
    """A perceptron, a batch, and one objective per instance."""

    def __init__(self, width: int, m: int, device: str) -> None:
        torch.manual_seed(0)
        layers = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.model = nn.Sequential(*layers, nn.Linear(width, 10)).to(device)
        self.x = torch.randn(m, 784, device=device)

    def losses(self) -> Tensor:
        losses: Tensor = self.model(self.x).square().mean(1)
        return losses

    def step(self, method: str, engine: Any) -> None:
        """One whole step: forward pass, update, and no gradient kept."""
        aggregator = jd.aggregator(method, **_METHODS[method])
        engine.backward(self.losses(), aggregator)
        self.model.zero_grad()

    def ordinary_step(self) -> None:
        """What no engine does without."""
        self.losses().sum().backward()
        self.model.zero_grad()


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__)
    case = _Case(256, 32, given.device) if given.quick else _Case(1024, 32, given.device)
    places = ["disk", None] if given.device == "cpu" else ["host", "disk", None]
    rows: list[Mapping[str, Any]] = []
    with progress(len(_METHODS) * len(places)) as advance:
        for method in _METHODS:
            for place in places:
                advance(f"{method}, {place}")
                rows.append(_row(case, method, place, given.device, 3 if given.quick else 5))
    show("A step of chunked over one of autojac", [_text(row) for row in rows])
    print(f"wrote {write('chunked', given, rows)}")


def _row(case: _Case, method: str, place: str | None, device: str, rounds: int) -> dict[str, Any]:
    autojac = partial(case.step, method, jd.engine("autojac", case.model))
    autojac()
    whole = peak_bytes(autojac, case.model, device)
    ordinary = peak_bytes(case.ordinary_step, case.model, device)
    row: dict[str, Any] = {
        "method": method,
        "rows kept": place or "not at all",
        "autojac in MB": whole / 1e6,
        "ordinary step": ordinary / whole,
    }
    for name, share in _SHARES.items():
        memory = f"{max(int(share * whole) - ordinary, 1)}B"
        engine = jd.engine("chunked", case.model, memory=memory, offload=place)
        step: Callable[[], object] = partial(case.step, method, engine)
        seconds = measured({"chunked": step, "autojac": autojac}, rounds, warm_up=1)
        row[f"peak at {name}"] = peak_bytes(step, case.model, device) / whole
        row[f"time at {name}"] = ratio(seconds["chunked"], seconds["autojac"])
    return row


def _text(row: Mapping[str, Any]) -> dict[str, str]:
    return {
        key: f"{value:.3g}" if isinstance(value, float) else str(_median(value))
        for key, value in row.items()
    }


def _median(value: Any) -> Any:
    return f"{value.median:.3g}x" if isinstance(value, Ratio) else value


if __name__ == "__main__":
    main()
