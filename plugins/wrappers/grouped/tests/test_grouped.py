"""Grouped: each group of parameters has its own Gramian, its own weights and its own state."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import Aggregator, GramianWeighting, Randomised
from jdframework.protocols import TreatsGroups
from jdframework.testing import FAMILIES, AggregatorSuite, combine_blocks

INNER = "shares-of-this-test"
RANDOM = "noise-of-this-test"

NAMES = ["scale", "0.weight", "0.bias", "1.linear.weight", "1.linear.bias"]
SHAPES = [(2,), (3, 2), (3,), (2, 3), (2,)]


class Shares(GramianWeighting):
    """Each gradient's share of the squared norms."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        squares = gramian.diagonal()
        return squares / squares.sum().clamp(min=torch.finfo(gramian.dtype).tiny)


class Noise(Randomised, GramianWeighting):
    """Random weights."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian)


class Largest(Aggregator):
    """The largest entry of each column."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        return jacobian.amax(0)


class ByLoss(GramianWeighting):
    """The losses."""

    needs = frozenset({"gramian", "losses"})

    def forward(self, gramian: Tensor, /, losses: Tensor | None = None) -> Tensor:
        assert losses is not None
        return losses


class Crossed(GramianWeighting):
    """Needs two batches."""

    needs = frozenset({"cross-gramian"})

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian.diagonal()


@pytest.fixture(autouse=True, scope="module")
def _registered() -> Iterator[None]:
    jd.register("weighting", INNER)(Shares)
    jd.register("weighting", RANDOM)(Noise)
    yield
    jd.unregister("weighting", INNER)
    jd.unregister("weighting", RANDOM)


class TestGrouped(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "grouped", "inner": INNER}


class TestGroupedRandomised(AggregatorSuite):
    spec: ClassVar[Mapping[str, Any]] = {"name": "grouped", "inner": {"name": RANDOM, "seed": 0}}
    permutation_invariant = False


def grouped(by: Any = "tensor", inner: Any = INNER, **config: Any) -> Any:
    return jd.aggregator("grouped", inner=inner, by=by, **config)


def bound(by: Any, inner: Any = INNER, names: Sequence[str] = NAMES) -> Any:
    method = grouped(by, inner)
    method.bind(names, NAMES)
    return method


def blocks(seed: int = 0, m: int = 3) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(m, *s, generator=generator, dtype=torch.float64) for s in SHAPES]


def members(method: Any, count: int = len(NAMES)) -> list[list[int]]:
    return [list(positions) for _, positions in method.groups(count)]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("tensor", [[0], [1], [2], [3], [4]]),
        ("module", [[0], [1, 2], [3, 4]]),
        ([["*.bias"], ["0.weight", "1.*.weight"]], [[2, 4], [1, 3], [0]]),
        ([["*"]], [[0, 1, 2, 3, 4]]),
        ([["?.weight"], ["scale", "1.*"]], [[1], [0, 3, 4], [2]]),
    ],
)
def test_parameters_are_divided_as_asked(by: Any, expected: list[list[int]]) -> None:
    assert members(bound(by)) == expected


@pytest.mark.parametrize("by", ["tensor", "module", [["*.bias"], ["0.weight", "1.*.weight"]]])
@pytest.mark.parametrize("inner", [Shares(), Largest(), ByLoss()], ids=["gramian", "rows", "loss"])
def test_each_group_gets_what_the_method_gives_it_alone(by: Any, inner: Any) -> None:
    jacobians, losses = blocks(), torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    method = bound(by, inner)
    combined = combine_blocks(method, jacobians, losses=losses)
    for group in members(method):
        alone = combine_blocks(inner, [jacobians[i] for i in group], losses=losses)
        for position, expected in zip(group, alone.directions, strict=True):
            assert expected is not None
            torch.testing.assert_close(combined.directions[position], expected)


def test_the_gramian_is_that_of_all_and_there_are_no_weights_for_all() -> None:
    jacobians = blocks()
    whole = torch.cat([block.flatten(1) for block in jacobians], 1)
    outcome = combine_blocks(bound("module"), jacobians)
    torch.testing.assert_close(outcome.gramian, whole @ whole.T)
    assert outcome.weights is None


def test_a_parameter_that_no_objective_reaches_is_left_out_of_its_group() -> None:
    jacobians: list[Tensor | None] = [*blocks()]
    jacobians[0] = jacobians[1] = None
    combined = combine_blocks(bound("module"), jacobians)
    assert combined.directions[:2] == (None, None)
    expected = combine_blocks(Shares(), jacobians[2:3]).directions[0]
    assert expected is not None
    torch.testing.assert_close(combined.directions[2], expected)


def test_frozen_parameters_do_not_move_the_others_into_other_groups() -> None:
    method = bound("module", inner={"name": RANDOM, "seed": 0})
    before = [inner for inner, _ in method.groups(5)]
    method.bind(NAMES[2:], NAMES)
    assert members(method, 3) == [[], [0], [1, 2]]
    assert [inner for inner, _ in method.groups(3)] == before


def test_each_group_has_its_own_state_which_loads_into_a_fresh_instance() -> None:
    method = bound("module", inner={"name": RANDOM, "seed": 0})
    for seed in range(3):
        combine_blocks(method, blocks(seed))
    file = io.BytesIO()
    torch.save(method.state_dict(), file)
    file.seek(0)
    state = torch.load(file, weights_only=True)
    assert len(state) == 3
    for bind_first in (True, False):
        fresh = grouped("module", inner={"name": RANDOM, "seed": 0})
        if bind_first:
            fresh.bind(NAMES, NAMES)
        fresh.load_state_dict(state, strict=True)
        fresh.bind(NAMES, NAMES)
        found = combine_blocks(fresh, blocks(3)).directions
        control = bound("module", inner={"name": RANDOM, "seed": 0})
        control.load_state_dict(method.state_dict())
        for first, second in zip(found, combine_blocks(control, blocks(3)).directions, strict=True):
            assert first is not None
            assert second is not None
            assert torch.equal(first, second)


def test_reset_reaches_every_group() -> None:
    method = bound("tensor", inner={"name": RANDOM, "seed": 0})
    first = combine_blocks(method, blocks()).directions
    combine_blocks(method, blocks())
    method.reset()
    again = combine_blocks(method, blocks()).directions
    for before, after in zip(first, again, strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before, after)


def test_groups_that_are_made_later_start_from_the_beginning() -> None:
    method = grouped(inner={"name": RANDOM, "seed": 0})
    expected = jd.weighting(RANDOM, seed=0)(torch.eye(3))
    method(FAMILIES["random"](3))
    method.bind(NAMES, NAMES)
    for inner in method.wrapped()[1:]:
        assert torch.equal(inner(torch.eye(3)), expected)


def test_a_matrix_is_cut_by_sizes() -> None:
    jacobian = FAMILIES["random"](3)
    found = grouped(sizes=[4, 0, 6])(jacobian)
    parts = [Shares()(part @ part.T) @ part for part in jacobian.split([4, 6], dim=1)]
    torch.testing.assert_close(found, torch.cat(parts))


def test_a_matrix_without_sizes_is_one_tensor() -> None:
    jacobian = FAMILIES["random"](3)
    torch.testing.assert_close(grouped()(jacobian), jd.aggregator(Shares())(jacobian))


def test_a_matrix_has_no_names_to_go_by() -> None:
    with pytest.raises(jd.ConfigError, match=r"through jd.Descent.* or give the groups' sizes="):
        grouped("module")(torch.ones(2, 3))
    with pytest.raises(jd.ConfigError, match=r"names, which it was not told: use it through jd"):
        grouped([["*"]]).groups(3)


def test_sizes_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(jd.ConfigError, match="which are 4 columns, but the matrix has 3"):
        grouped(sizes=[2, 2])(torch.ones(2, 3))


def test_blocks_without_names_are_a_group_each() -> None:
    method = grouped()
    directions = combine_blocks(method, blocks()).directions
    expected = combine_blocks(bound("tensor"), blocks()).directions
    for first, second in zip(directions, expected, strict=True):
        assert first is not None
        assert second is not None
        assert torch.equal(first, second)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ([["0.*"], ["2.*"]], r"pattern '2\.\*', which matches no parameter; there are"),
        ([["0.wieght"]], r"'0\.wieght', which matches no parameter; .*'0\.weight'"),
        ([["0.*"], ["*.bias"]], r"'0\.bias' is in the groups \['0\.\*'\] and \['\*\.bias'\]"),
    ],
)
def test_patterns_that_do_not_divide_the_parameters_are_refused(by: Any, message: str) -> None:
    with pytest.raises(jd.ConfigError, match=message):
        bound(by)


@pytest.mark.parametrize("by", ["layer", [], [[]], ["0.*"], [["0.*"], 3], 3, None])
def test_what_is_no_rule_for_groups_is_refused_in_one_sentence(by: Any) -> None:
    with pytest.raises(jd.ConfigError, match="^grouped: by = .* but it is 'tensor', 'mod") as error:
        grouped(by)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sizes", [[], [-1, 4]])
def test_impossible_sizes_are_refused(sizes: list[int]) -> None:
    with pytest.raises(jd.ConfigError, match="grouped: sizes = "):
        grouped(sizes=sizes)


@pytest.mark.parametrize("inner", [Crossed(), {"name": "grouped", "inner": INNER}])
def test_an_inner_method_that_has_no_one_jacobian_is_refused(inner: Any) -> None:
    with pytest.raises(jd.ConfigError, match="one batch's Jacobian or Gramian that is not itself"):
        grouped(inner=inner)


def test_another_number_of_groups_is_refused() -> None:
    method = bound("tensor", inner={"name": RANDOM, "seed": 0})
    with pytest.raises(jd.ConfigError, match="methods for 5 groups, but now there are 2"):
        method.bind(NAMES[:2], NAMES[:2])


def test_it_needs_the_jacobian_and_the_losses_where_its_inner_method_does() -> None:
    assert grouped().needs == {"gramian"}
    assert grouped(inner=ByLoss()).needs == {"gramian", "losses"}
    assert grouped(inner=Largest()).needs == {"jacobian"}
    assert isinstance(grouped(), TreatsGroups)
