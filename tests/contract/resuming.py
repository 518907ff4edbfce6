"""Training that stops, and goes on in another process.

As a program, ``resuming.py FOLDER`` goes on with every run that was saved in the folder.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.protocols.names import Kind

HALF: Final = 10
OBJECTIVES: Final = 3
_EPOCH: Final = 2


@dataclass
class Run:
    """A model, a method and an optimizer, all of which a checkpoint holds."""

    model: nn.Module
    descent: jd.Descent
    optimizer: torch.optim.Optimizer

    @classmethod
    def fresh(cls, kind: Kind, name: str, config: Mapping[str, Any]) -> Run:
        """The same at every start."""
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, OBJECTIVES))
        method = getattr(jd, kind)(name, **config)
        descent = jd.Descent(model, method)
        parameters = [*model.parameters(), *descent.parameters()]
        return cls(model, descent, torch.optim.Adam(parameters, lr=0.01))

    def train(self, start: int, stop: int) -> list[Tensor | None]:
        """Steps of a plain loop that tells the method all there is to tell; their weights."""
        weights = []
        for number in range(start, stop):
            batch = torch.randn(5, 6, 3, generator=torch.Generator().manual_seed(number))
            needs_others = "cross-gramian" in self.descent.method.needs
            allowed = getattr(self.descent.method, "independent_batches", (1, 2))
            others = tuple(self._losses(batch[2 + i]) for i in range(max(allowed)))
            step = self.descent.backward(
                self._losses(batch[0]), independent=others if needs_others else None
            )
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.descent.after_update(self._losses(batch[0]))
            if number % _EPOCH:
                self.descent.end_epoch()
            weights.append(step.weights)
        return weights

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        parts = {"model": self.model, "method": self.descent, "optimizer": self.optimizer}
        return {part: owner.state_dict() for part, owner in parts.items()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Puts it back, strictly."""
        self.model.load_state_dict(state["model"], strict=True)
        self.descent.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])

    def _losses(self, inputs: Tensor) -> Tensor:
        targets = torch.linspace(-1.0, 2.0, OBJECTIVES)
        return (self.model(inputs) - targets).square().mean(0)


def go_on(saved: Path) -> None:
    """The second half of a run, in this process; writes the outcome beside what was saved."""
    found: dict[str, Any] = {}
    try:
        checkpoint = torch.load(saved, weights_only=True)
        run = Run.fresh(*checkpoint["spec"])
        run.load(checkpoint["state"])
        found["weights"] = run.train(HALF, 2 * HALF)
        found["state"] = run.state()
    except Exception as error:  # noqa: BLE001  # one method's failure is not the others'
        found["error"] = f"{type(error).__name__}: {error}"
    torch.save(found, saved.with_suffix(".resumed"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for path in sorted(Path(sys.argv[1]).glob("*.saved")):
        go_on(path)
