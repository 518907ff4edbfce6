"""What weightings, aggregators and scalarizers must all keep: state, seeds, others' tensors."""

from __future__ import annotations

import copy
import io
import pickle
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.protocols import ActsAfterUpdate, HasEpochs, Stateful
from jdframework.testing.generators import seeded, states
from jdframework.testing.simulated_device import (
    DEVICE,
    Accelerator,
    MixedDevicesError,
    SimulatedTensor,
    there,
)
from jdframework.testing.suite import Suite

_STEPS: Final = 5


class MethodSuite(Suite):
    """What the suites of all three kinds of methods have in common."""

    robust: ClassVar[bool] = False
    """Whether finite answers to input that is not finite are meant, as by a trimmed mean."""

    @abstractmethod
    def sample(self, seed: int = 0) -> Tensor:
        """An ordinary input in float64: a Jacobian, or losses.

        :param seed: Another seed gives another one.
        """

    def inputs(self, method: Any, sample: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """What the method is called with: its input, and what else it needs, by name."""
        return sample, {}

    def losses_after(self, method: Any, sample: Tensor) -> Tensor:
        """What ``after_update`` is given, for methods that have it."""
        return sample.new_full((len(sample),), 0.5)

    def answer(self, method: Any, sample: Tensor) -> Tensor:
        """The method called on ``sample``."""
        given, extra = self.inputs(method, sample)
        result: Tensor = method(given, **extra)
        return result

    def advance(self, method: Any, number: int) -> Tensor:
        """One step of training with all that belongs to it; the method's answer.

        :param number: Which step; each has another input.
        """
        sample = self.sample(number)
        answer = self.answer(method, sample)
        trained = [p for p in method.parameters() if p.requires_grad]
        if trained and answer.requires_grad:
            for parameter, gradient in zip(
                trained, torch.autograd.grad(answer, trained, allow_unused=True), strict=True
            ):
                if gradient is not None:
                    parameter.data.sub_(gradient, alpha=0.1)
        if isinstance(method, ActsAfterUpdate):
            method.after_update(self.losses_after(method, sample))
        if isinstance(method, HasEpochs) and number % 2:
            method.end_epoch()
        return answer.detach().clone()

    def advanced(self, method: Any, start: int = 0, stop: int = _STEPS) -> Tensor:
        """The answers of several steps, ``[stop - start, …]``."""
        return torch.stack([self.advance(method, number) for number in range(start, stop)])

    def test_the_input_is_left_as_it_was(self) -> None:
        """The method changes nothing in the tensors that it is given."""
        for dtype in (torch.float32, torch.float64):
            method = self.make()
            given, extra = self.inputs(method, self.sample().to(dtype))
            tensors = {"the input": given, **extra}
            before = {name: tensor.clone() for name, tensor in tensors.items()}
            method(given, **extra)
            for name, tensor in tensors.items():
                assert torch.equal(tensor, before[name]), f"the method changed {name} ({dtype})"

    def test_the_answer_is_where_the_input_was(self) -> None:
        """On an accelerator, which is simulated for this, nothing is left on the CPU."""
        with Accelerator():
            method = self.make().to(DEVICE)
            given, extra = self.inputs(method, self.sample())
            try:
                answer = method(there(given), **{name: there(t) for name, t in extra.items()})
            except MixedDevicesError as error:
                pytest.fail(f"on an accelerator, tensors on the CPU meet others there: {error}")
            except Exception as error:  # noqa: BLE001  # the pretence has its limits
                pytest.skip(f"not applicable: the simulated device cannot do this ({error})")
            assert isinstance(answer, SimulatedTensor), (
                "the input was on an accelerator, not the answer"
            )

    def test_the_result_belongs_to_the_caller(self) -> None:
        """What the caller does to a result changes neither the input nor later results."""
        method, control = self.make(), self.make()
        sample = self.sample()
        given, extra = self.inputs(method, sample)
        before = given.clone()
        with torch.no_grad():
            method(given, **extra).fill_(7.0)
            self.answer(control, sample)
        assert torch.equal(given, before), "the result shares its memory with the input"
        after, expected = self.answer(method, sample), self.answer(control, sample)
        assert torch.equal(after, expected), "the result shares its memory with the method's state"

    def test_the_answer_depends_on_the_seed_alone(self) -> None:
        """Fresh instances with the same settings answer alike, whatever the global seed."""
        with seeded(1):
            first = self.advanced(self.make())
        with seeded(2):
            second = self.advanced(self.make())
        assert torch.equal(first, second), "two fresh instances with the same settings differ"

    def test_global_generators_are_left_alone(self) -> None:
        """The method draws nothing from torch's, NumPy's or Python's global generators."""
        with seeded(1):
            before = states()
            self.advanced(self.make())
            moved = [library for library, state in states().items() if state != before[library]]
        assert not moved, f"the method drew from the global generator of {', '.join(moved)}"

    def test_without_a_seed_the_global_one_decides(self) -> None:
        """With ``seed=None``, ``torch.manual_seed`` makes a run repeatable."""
        self._needs_seed()
        with seeded(5):
            first = self.advanced(self.make(seed=None))
        with seeded(5):
            second = self.advanced(self.make(seed=None))
        assert torch.equal(first, second), "with seed=None, torch.manual_seed does not decide"

    def test_another_seed_gives_other_numbers(self) -> None:
        """The seed is used: not all seeds give the same answers."""
        self._needs_seed()
        answers = [self.advanced(self.make(seed=seed)) for seed in range(8)]
        assert any(not torch.equal(answers[0], other) for other in answers[1:]), (
            "the seeds 0 to 7 all give the same answers: is the seed used?"
        )

    @pytest.mark.parametrize("done", [0, 2])
    def test_a_saved_state_resumes_exactly(self, done: int) -> None:
        """Some steps, save, load strictly into a fresh instance, go on: as if never interrupted."""
        expected = self.advanced(self.make())
        interrupted = self.make()
        for number in range(done):
            self.advance(interrupted, number)
        resumed = self.make()
        resumed.load_state_dict(_through_file(interrupted.state_dict()), strict=True)
        found = self.advanced(resumed, start=done)
        assert torch.equal(found, expected[done:]), (
            f"after {done} steps, state_dict() into a fresh instance does not go on as the "
            f"original: some state is not in state_dict()"
        )

    def test_the_state_is_tensors(self) -> None:
        """Each value of ``state_dict()`` is a tensor, which every format of checkpoints takes."""
        method = self.make()
        self.advanced(method)
        for key, value in method.state_dict().items():
            assert isinstance(value, Tensor), (
                f"state_dict() has {key!r} as {type(value).__name__}: keep it in a buffer, or give "
                f"a tensor from get_extra_state()"
            )

    def test_a_method_that_remembers_has_reset(self) -> None:
        """What changes its state has a ``reset()``."""
        method = self.make()
        before = copy.deepcopy(method.state_dict())
        self.advanced(method)
        after = method.state_dict()
        moved = [name for name in after if not _same(after[name], before.get(name))]
        assert not moved or callable(getattr(self.implementation(), "reset", None)), (
            f"the method remembers earlier steps in {', '.join(moved)}, but has no reset()"
        )

    def test_reset_forgets_every_step(self) -> None:
        """After ``reset()`` the method behaves like a new one."""
        method = self.make()
        if not isinstance(method, Stateful):
            pytest.skip("not applicable: the method has no reset()")
        expected = self.advanced(self.make())
        self.advanced(method)
        method.reset()
        assert torch.equal(self.advanced(method), expected), "reset() left something behind"

    def test_a_pickled_copy_goes_on_alike(self) -> None:
        """Pickling keeps the settings and the state."""
        self._check_copy(lambda method: pickle.loads(pickle.dumps(method)))  # noqa: S301  # our own

    def test_a_deep_copy_goes_on_alike_on_its_own(self) -> None:
        """A deep copy keeps the settings and the state, and shares nothing with the original."""
        self._check_copy(copy.deepcopy)

    def _check_copy(self, copied: Any) -> None:
        expected = self.advanced(self.make())
        method = self.make()
        self.advanced(method, stop=2)
        twin = copied(method)
        assert twin.config == method.config
        assert torch.equal(self.advanced(twin, start=2), expected[2:]), "the copy lost some state"
        assert torch.equal(self.advanced(method, start=2), expected[2:]), (
            "the copy shares state with the original"
        )

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
    def test_non_finite_input_is_not_hidden(self, value: float) -> None:
        """NaN and infinity give the like or a ``JDError``: no foreign error, no finite answer."""
        method = self.make()
        sample = self.sample()
        sample.view(-1)[0] = value
        try:
            answer = self.answer(method, sample)
        except jd.JDError:
            return
        assert self.robust or not method.needs or not torch.isfinite(answer).all(), (
            f"an input with {value} gave {answer.tolist()}, as if it were finite: give NaN or "
            f"raise a JDError, or claim robust = True"
        )

    def _needs_seed(self) -> None:
        if not self.is_seeded():
            pytest.skip("not applicable: the method takes no seed")


def _same(state: object, other: object) -> bool:
    if isinstance(state, Tensor) and isinstance(other, Tensor):
        return state.shape == other.shape and torch.equal(state, other)
    return state == other


def _through_file(state: Mapping[str, Any]) -> dict[str, Any]:
    """The state as it comes back from disk, where no code may be pickled."""
    file = io.BytesIO()
    torch.save(dict(state), file)
    file.seek(0)
    restored: dict[str, Any] = torch.load(file, weights_only=True)
    return restored
