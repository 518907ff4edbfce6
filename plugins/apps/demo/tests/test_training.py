"""The comparison is fair, and gives the same again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting

from jd_plugin_demo.comparison import Comparison, compare
from jd_plugin_demo.data import Digits
from jd_plugin_demo.model import TwoDigits
from jd_plugin_demo.table import Row, rows
from jd_plugin_demo.training import Result, Run, Setting, batches
from jd_plugin_report.contestants import contestants

from .conftest import METHODS, TINY


def quietly(names: Sequence[str], setting: Setting = TINY) -> Comparison:
    return compare(contestants(names), setting, lambda name, steps: None)


def without_seconds(found: Comparison) -> list[Row]:
    return [Row(**{**row, "seconds_per_step": 0.0}) for row in rows(found.results)]


def test_every_method_starts_from_the_same_weights(digits: Digits) -> None:
    runs = [Run(contestant, digits, TINY) for contestant in contestants(METHODS)]
    first, *others = (run._model.state_dict() for run in runs)
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(
    "name", ["modo", "sdmgrad", "famo", "dwa", "stch-mtl", "gradnorm", "moco", "db-mtl", "imtl"]
)
def test_a_method_that_needs_more_than_a_gramian_trains(name: str) -> None:
    (result,) = quietly([name], replace(TINY, epochs=6)).results
    first, last = result.curve.losses.mean(dim=1).split(len(result.curve.losses) // 2)[:2]
    assert last.mean() < first.mean()


def test_the_independent_batches_are_others_and_the_same_every_time(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[list[float]] = []
    backward = jd.Descent.backward

    def watched(self: jd.Descent, losses: Any, **more: Any) -> Any:
        batches = [losses, *more["independent"]]
        given.append([float(loss.detach()) for batch in batches for loss in batch.values()])
        return backward(self, losses, **more)

    monkeypatch.setattr(jd.Descent, "backward", watched)
    for _ in range(2):
        (contestant,) = contestants(["sdmgrad"])
        Run(contestant, digits, TINY).advance(2)
    assert len(set(given[0])) == 6
    assert given[:2] == given[2:]


def test_the_first_weights_depend_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    first = TwoDigits(seed=5)
    torch.manual_seed(2)
    again, other = TwoDigits(seed=5), TwoDigits(seed=6)
    assert torch.equal(first.trunk[0].weight, again.trunk[0].weight)
    assert not torch.equal(first.trunk[0].weight, other.trunk[0].weight)


def test_every_method_sees_the_same_batches(
    digits: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, list[Tensor]] = {name: [] for name in METHODS}
    step = Run._step

    def watched(self: Run, index: int, images: Tensor, labels: Tensor) -> None:
        seen[self.contestant.name].append(images)
        step(self, index, images, labels)

    monkeypatch.setattr(Run, "_step", watched)
    quietly(METHODS)
    first, *others = seen.values()
    assert len(first) == TINY.steps
    for other in others:
        assert all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_each_epoch_goes_through_every_pair_once_in_another_order() -> None:
    found = list(batches(TINY))
    assert len(found) == TINY.steps
    per_epoch = [
        torch.cat(found[start : start + TINY.steps_per_epoch])
        for start in range(0, TINY.steps, TINY.steps_per_epoch)
    ]
    assert len(per_epoch) == TINY.epochs
    for order in per_epoch:
        assert sorted(order.tolist()) == list(range(TINY.train_pairs))
    assert not torch.equal(per_epoch[0], per_epoch[1])


def test_two_runs_give_the_same_table_apart_from_the_seconds(comparison: Comparison) -> None:
    again = quietly(METHODS)
    assert without_seconds(again) == without_seconds(comparison)
    for first, second in zip(comparison.results, again.results, strict=True):
        assert torch.equal(first.curve.losses, second.curve.losses)
        assert torch.equal(first.predictions, second.predictions)


def test_another_seed_gives_another_table(comparison: Comparison) -> None:
    other = quietly(METHODS, replace(TINY, seed=1))
    assert without_seconds(other) != without_seconds(comparison)


def test_a_method_that_draws_numbers_does_the_same_whatever_was_drawn_before() -> None:
    several_turns = replace(TINY, epochs=4)
    torch.manual_seed(1)
    (alone,) = quietly(["random"], several_turns).results
    torch.manual_seed(2)
    _, between, _ = quietly(["mgda", "random", "uw"], several_turns).results
    assert torch.equal(alone.curve.losses, between.curve.losses)
    assert torch.equal(alone.curve.weights, between.curve.weights)
    assert len(alone.curve.weights.unique(dim=0)) == several_turns.steps


def test_measuring_the_conflict_does_not_change_the_training(comparison: Comparison) -> None:
    always = quietly(METHODS, replace(TINY, measure_every=1))
    for some, every in zip(comparison.results, always.results, strict=True):
        assert torch.equal(some.curve.losses, every.curve.losses)
        measured = ~some.curve.cosines.isnan()
        assert measured.nonzero().flatten().tolist() == list(range(0, TINY.steps, 3))
        assert torch.equal(some.curve.cosines[measured], every.curve.cosines[measured])


def test_the_conflict_is_that_of_the_trunks_gradients(digits: Digits) -> None:
    (result,) = quietly(["sum"], replace(TINY, measure_every=1)).results
    model = TwoDigits(TINY.seed)
    first = next(batches(TINY))
    logits = model(digits.train.images[first])
    gradients = []
    for index, task in enumerate(("left", "right")):
        labels = digits.train.labels[first, index]
        loss = torch.nn.functional.cross_entropy(logits[task], labels)
        rows = torch.autograd.grad(loss, list(model.trunk.parameters()), retain_graph=True)
        gradients.append(torch.cat([row.flatten() for row in rows]))
    expected = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert float(result.curve.cosines[0]) == pytest.approx(float(expected), abs=1e-6)
    assert result.conflict == pytest.approx(float((result.curve.cosines < 0).double().mean()))


def test_each_step_records_losses_and_weights(comparison: Comparison) -> None:
    by_name = {result.contestant.name: result for result in comparison.results}
    for result in comparison.results:
        assert result.curve.losses.isfinite().all()
        assert (result.curve.seconds > 0).all()
    assert torch.equal(by_name["sum"].curve.weights, torch.ones(TINY.steps, 2))
    assert torch.allclose(by_name["mgda"].curve.weights.sum(dim=1), torch.ones(TINY.steps))
    assert by_name["sum"].engine == "autograd"
    assert by_name["upgrad"].engine in jd.available("engine")


def test_a_trainable_scalarizer_is_trained(comparison: Comparison) -> None:
    uw = comparison.results[METHODS.index("uw")].curve.weights
    assert uw[0].tolist() == [0.5, 0.5]
    assert not torch.allclose(uw[-1], uw[0], atol=1e-3)


def test_the_accuracies_are_those_of_the_predictions(comparison: Comparison) -> None:
    labels = comparison.digits.test.labels
    for result in comparison.results:
        for task in range(2):
            right = int((result.predictions[:, task] == labels[:, task]).sum())
            assert result.accuracies[task] == pytest.approx(right / len(labels))


def test_training_learns_to_read_both_digits() -> None:
    setting = replace(TINY, train_pairs=2000, epochs=2, measure_every=50)
    (result,) = quietly(["mean"], setting).results
    assert min(result.accuracies) > 0.4


@pytest.fixture
def told() -> list[str]:
    """What the method ``eavesdropper`` is told, in order."""
    heard: list[str] = []

    class Eavesdropper(GramianWeighting):
        """Hears everything."""

        def forward(self, gramian: Tensor, /) -> Tensor:
            heard.append("step")
            return torch.ones(len(gramian), dtype=gramian.dtype)

        def after_update(self, losses: Tensor, /) -> None:
            heard.append(f"losses {list(losses.shape)}")

        def end_epoch(self) -> None:
            heard.append("epoch")

    jd.register("weighting", "eavesdropper")(Eavesdropper)
    yield heard
    jd.unregister("weighting", "eavesdropper")


def test_methods_are_told_the_losses_after_each_update_and_the_end_of_each_epoch(
    told: list[str],
) -> None:
    quietly(["eavesdropper"])
    epoch = ["step", "losses [2]"] * TINY.steps_per_epoch + ["epoch"]
    assert told == epoch * TINY.epochs


def test_a_step_that_fails_names_the_method() -> None:
    class Failing(GramianWeighting):
        """Fails."""

        def forward(self, gramian: Tensor, /) -> Tensor:
            raise jd.SolverError("no solution")

    jd.register("weighting", "failing")(Failing)
    try:
        with pytest.raises(jd.JDError, match="failing failed: no solution"):
            quietly(["sum", "failing"])
    finally:
        jd.unregister("weighting", "failing")


def test_the_callers_generator_and_threads_are_left_alone() -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        quietly(["random"])
        assert torch.get_num_threads() == threads + 1
        assert torch.equal(torch.get_rng_state(), before)
    finally:
        torch.set_num_threads(threads)


def test_progress_is_told_for_every_method_up_to_the_last_step() -> None:
    done = dict.fromkeys(METHODS, 0)

    def on_progress(name: str, steps: int) -> None:
        done[name] += steps
        assert max(done.values()) - min(done.values()) <= 20

    compare(contestants(METHODS), TINY, on_progress)
    assert set(done.values()) == {TINY.steps}


def test_the_mean_accuracy_is_over_both_tasks(comparison: Comparison) -> None:
    result: Result = comparison.results[0]
    assert result.mean_accuracy == pytest.approx(sum(result.accuracies) / 2)
