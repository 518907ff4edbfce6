"""The training loop, one for every method."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

import jdframework as jd
from jdframework.protocols import ActsAfterUpdate, Engine, TakesBatches

from jd_plugin_demo.data import Digits, Pairs
from jd_plugin_demo.model import TASKS, TwoDigits
from jd_plugin_report.contestants import Contestant


@dataclass(frozen=True)
class Setting:
    """How every method trains."""

    epochs: int = 10
    train_pairs: int = 8000
    test_pairs: int = 2000
    batch_size: int = 64
    learning_rate: float = 3e-3
    measure_every: int = 5
    """The conflict is measured at every so many steps."""
    seed: int = 0

    @property
    def steps_per_epoch(self) -> int:
        """The number of batches; the last one may be smaller."""
        return -(-self.train_pairs // self.batch_size)

    @property
    def steps(self) -> int:
        """The number of updates of one training run."""
        return self.epochs * self.steps_per_epoch


@dataclass(frozen=True)
class Curve:
    """What was recorded at each of the ``t`` steps."""

    losses: Float[Tensor, "t 2"]
    weights: Float[Tensor, "t 2"]
    """NaN for a method that has none."""
    cosines: Float[Tensor, " t"]
    """Between the two tasks' gradients of the trunk; NaN where it was not measured."""
    seconds: Float[Tensor, " t"]
    """Forward pass, backward pass and update, without the measuring."""


@dataclass(frozen=True)
class Result:
    """How one method did."""

    contestant: Contestant
    engine: str
    curve: Curve
    predictions: Int[Tensor, "n 2"]
    """On the held-out pairs."""
    accuracies: tuple[float, float]
    """Share of the held-out pairs whose left, and whose right, digit was read correctly."""

    @property
    def mean_accuracy(self) -> float:
        """The mean over the two tasks."""
        return sum(self.accuracies) / len(self.accuracies)

    @property
    def conflict(self) -> float:
        """The share of measured steps at which the two gradients pointed against each other."""
        measured = self.curve.cosines[~self.curve.cosines.isnan()]
        return float((measured < 0).double().mean())

    @property
    def seconds_per_step(self) -> float:
        """The median."""
        return float(self.curve.seconds.median())


def batches(setting: Setting) -> Iterator[Int[Tensor, " b"]]:
    """The indices of each step's pairs: every epoch goes through all of them in a new order."""
    generator = torch.Generator().manual_seed(setting.seed)
    for _ in range(setting.epochs):
        order = torch.randperm(setting.train_pairs, generator=generator)
        yield from torch.split(order, setting.batch_size)


class Run:
    """One network in training with one method.

    :param contestant: The method.
    :param digits: The data.
    :param setting: The same for every method: it fixes the first weights and the batches.
    """

    def __init__(self, contestant: Contestant, digits: Digits, setting: Setting) -> None:
        self.contestant = contestant
        self._digits = digits
        self._setting = setting
        self._model = TwoDigits(setting.seed)
        self._descent = jd.Descent(self._model.trunk, contestant.name, **contestant.settings)
        self._probe = jd.engine("autojac", self._model.trunk)
        parameters = [*self._model.parameters(), *self._descent.parameters()]
        self._optimizer = torch.optim.Adam(parameters, lr=setting.learning_rate)
        self._random_state = torch.Generator().manual_seed(setting.seed).get_state()
        self._batches = enumerate(batches(setting))
        self._other_batches = cycle(batches(replace(setting, seed=setting.seed ^ 1)))
        self._engine = ""
        self._curve = Curve(
            losses=torch.full((setting.steps, len(TASKS)), torch.nan),
            weights=torch.full((setting.steps, len(TASKS)), torch.nan),
            cosines=torch.full((setting.steps,), torch.nan),
            seconds=torch.zeros(setting.steps, dtype=torch.float64),
        )

    def advance(self, steps: int) -> None:
        """Trains for so many steps, or to the end.

        :raises JDError: if a step fails, naming the method.
        """
        with self._own_random_numbers():
            for step, batch in islice(self._batches, steps):
                try:
                    self._step(
                        step, self._digits.train.images[batch], self._digits.train.labels[batch]
                    )
                except jd.JDError as error:
                    name = self.contestant.name
                    why = str(error).removeprefix(f"{name}: ")
                    raise jd.JDError(f"{name} failed: {why}") from error
                if (step + 1) % self._setting.steps_per_epoch == 0:
                    self._descent.end_epoch()

    def result(self) -> Result:
        """What came out; reads the held-out pairs."""
        labels = self._digits.test.labels
        predictions = read(self._model, self._digits.test)
        left, right = (predictions == labels).double().mean(dim=0).tolist()
        return Result(self.contestant, self._engine, self._curve, predictions, (left, right))

    def close(self) -> None:
        """Lets go of the network."""
        self._descent.close()
        self._probe.close()

    @contextmanager
    def _own_random_numbers(self) -> Iterator[None]:
        """A method that draws from torch's generator must not depend on the other methods."""
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(self._random_state)
            yield
            self._random_state = torch.get_rng_state()

    def _step(
        self, step: int, images: Float[Tensor, "b 1 10 12"], labels: Int[Tensor, "b 2"]
    ) -> None:
        started = time.perf_counter()
        features = self._model.trunk(images)
        losses = _losses(self._model, features, labels)
        forward = time.perf_counter() - started
        if step % self._setting.measure_every == 0:
            self._curve.cosines[step] = _cosine(self._probe, losses)
        started = time.perf_counter()
        self._optimizer.zero_grad()
        independent = self._independent_losses()
        record = self._descent.backward(losses, features=features, independent=independent)
        self._optimizer.step()
        if isinstance(self._descent.method, ActsAfterUpdate):
            with torch.no_grad():
                losses = _losses(self._model, self._model.trunk(images), labels)
            self._descent.after_update(losses)
        self._curve.seconds[step] = forward + time.perf_counter() - started
        self._curve.losses[step] = record.losses
        if record.weights is not None:
            self._curve.weights[step] = record.weights
        self._engine = record.engine

    def _independent_losses(self) -> list[dict[str, Tensor]] | None:
        """The losses of other batches, for the methods that ask for them."""
        method = self._descent.method
        if "cross-gramian" not in method.needs:
            return None
        wanted = max(method.independent_batches) if isinstance(method, TakesBatches) else 1
        found = []
        for batch in islice(self._other_batches, wanted):
            pairs = self._digits.train
            features = self._model.trunk(pairs.images[batch])
            found.append(_losses(self._model, features, pairs.labels[batch]))
        return found


def _losses(
    model: TwoDigits, features: Float[Tensor, "b 64"], labels: Int[Tensor, "b 2"]
) -> dict[str, Float[Tensor, ""]]:
    logits = model.logits(features)
    return {
        task: nn.functional.cross_entropy(logits[task], labels[:, index])
        for index, task in enumerate(TASKS)
    }


def _cosine(probe: Engine, losses: dict[str, Float[Tensor, ""]]) -> float:
    return float(jd.linalg.cosines(probe.compute_gramian(list(losses.values())))[0, 1])


@torch.no_grad()
def read(model: TwoDigits, pairs: Pairs) -> Int[Tensor, "n 2"]:
    """The two digits that the network sees in each picture."""
    logits = model(pairs.images)
    return torch.stack([logits[task].argmax(dim=1) for task in TASKS], dim=1)
