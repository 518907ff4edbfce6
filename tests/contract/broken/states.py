"""Methods that lose, share or misplace their state, or draw from the wrong generator."""

from __future__ import annotations

import random
from typing import Any

import torch
from torch import Tensor

from jdframework.bases import GramianWeighting, Randomised
from jdframework.testing import WeightingSuite


class _Counting(GramianWeighting):
    """Weights that grow with each call, from a state that is kept as it should be."""

    calls: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("calls", torch.zeros((), dtype=torch.float64))

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.calls += 1
        return gramian.new_ones(len(gramian)) * self.calls.to(gramian)

    def reset(self) -> None:
        self.calls.zero_()


class StateInAnAttribute(GramianWeighting):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.calls = 0

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.calls += 1
        return gramian.new_full((len(gramian),), self.calls)


class TestStateInAnAttribute(WeightingSuite):
    spec = StateInAnAttribute
    caught_by = ("test_a_saved_state_resumes_exactly",)


class StateInADictionary(GramianWeighting):
    """It resumes exactly, but ``safetensors`` refuses its state."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.reset()

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.calls += 1
        return gramian.new_full((len(gramian),), self.calls)

    def reset(self) -> None:
        self.calls = 0

    def get_extra_state(self) -> dict[str, int]:
        return {"calls": self.calls}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.calls = state["calls"]


class TestStateInADictionary(WeightingSuite):
    spec = StateInADictionary
    caught_by = ("test_the_state_is_tensors",)


class StateOfUnknownShape(GramianWeighting):
    """Its buffer appears with the first call, so that a fresh instance refuses the state."""

    average: Tensor

    def forward(self, gramian: Tensor, /) -> Tensor:
        if not hasattr(self, "average"):
            self.register_buffer("average", torch.zeros_like(gramian))
        self.average = 0.9 * self.average + 0.1 * gramian
        return self.average.diagonal().clone()


class TestStateOfUnknownShape(WeightingSuite):
    spec = StateOfUnknownShape
    scale = None
    caught_by = ("test_a_saved_state_resumes_exactly",)


class NoReset(GramianWeighting):
    largest: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("largest", torch.zeros((), dtype=torch.float64))

    def forward(self, gramian: Tensor, /) -> Tensor:
        self.largest = torch.maximum(self.largest, gramian.max())
        return gramian.diagonal() / self.largest


class TestNoReset(WeightingSuite):
    spec = NoReset
    caught_by = ("test_a_method_that_remembers_has_reset",)


class ForgetfulReset(_Counting):
    def reset(self) -> None:
        pass


class TestForgetfulReset(WeightingSuite):
    spec = ForgetfulReset
    caught_by = ("test_reset_forgets_every_step",)


class CannotBePickled(_Counting):
    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.transform = lambda weights: weights


class TestCannotBePickled(WeightingSuite):
    spec = CannotBePickled
    caught_by = ("test_a_pickled_copy_goes_on_alike",)


class CopyIsItself(_Counting):
    def __deepcopy__(self, memo: dict[int, Any]) -> CopyIsItself:
        return self


class TestCopyIsItself(WeightingSuite):
    spec = CopyIsItself
    caught_by = ("test_a_deep_copy_goes_on_alike_on_its_own",)


class HandsOutItsState(GramianWeighting):
    last: Tensor

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_buffer("last", torch.ones(3, dtype=torch.float64))

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.last


class TestHandsOutItsState(WeightingSuite):
    spec = HandsOutItsState
    objectives = (3,)
    caught_by = ("test_the_result_belongs_to_the_caller",)


class DrawsGlobally(Randomised, GramianWeighting):
    """Takes a seed, and draws from torch's global generator."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return torch.rand(len(gramian))


class TestDrawsGlobally(WeightingSuite):
    spec = DrawsGlobally
    permutation_equivariant = False
    caught_by = (
        "test_global_generators_are_left_alone",
        "test_the_answer_depends_on_the_seed_alone",
        "test_another_seed_gives_other_numbers",
    )

    # Under one global seed, an ignored seed shows.
    def make(self, **changes: Any) -> Any:
        if isinstance(changes.get("seed"), int):
            torch.manual_seed(0)
        return super().make(**changes)


class DrawsFromPython(GramianWeighting):
    """Its answers are the same, but the user's own random numbers change."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        random.seed(2)
        return gramian.new_ones(len(gramian))


class TestDrawsFromPython(WeightingSuite):
    spec = DrawsFromPython
    caught_by = ("test_global_generators_are_left_alone",)


class IgnoresItsSeed(Randomised, GramianWeighting):
    def _fresh_generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(7)

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian)


class TestIgnoresItsSeed(WeightingSuite):
    spec = IgnoresItsSeed
    permutation_equivariant = False
    caught_by = ("test_another_seed_gives_other_numbers",)


class SeedsItselfFromTheClock(Randomised, GramianWeighting):
    def _fresh_generator(self) -> torch.Generator:
        generator = torch.Generator()
        if self.config.seed is None:
            generator.seed()
        else:
            generator.manual_seed(self.config.seed)
        return generator

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian)


class TestSeedsItselfFromTheClock(WeightingSuite):
    spec = SeedsItselfFromTheClock
    permutation_equivariant = False
    caught_by = ("test_without_a_seed_the_global_one_decides",)
