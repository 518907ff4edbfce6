from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import (
    Aggregator,
    BaseMethod,
    GramianWeighting,
    JacobianWeighting,
    Randomised,
    Scalarizer,
    TrainableScalarizer,
    WeightedSum,
)
from jdframework.config import Config, Vector


class Noting(GramianWeighting):
    """Keeps what ``forward`` was given."""

    def forward(self, gramian: Tensor, /, **extra: Tensor) -> Tensor:
        self.given, self.extra = gramian, extra
        return gramian.diagonal() * 1.0


class NotingRows(JacobianWeighting):
    """Likewise, of the rows."""

    def forward(self, jacobian: Tensor, /, **extra: Tensor) -> Tensor:
        self.given, self.extra = jacobian, extra
        return jacobian.sum(1)


class NotingDirection(Aggregator):
    """Likewise, for a direction."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        self.given = jacobian
        return jacobian.sum(0)


class NotingLosses(Scalarizer):
    """Likewise, of losses."""

    def forward(self, losses: Tensor, /) -> Tensor:
        self.given = losses
        return losses.sum()


class Noise(Randomised, GramianWeighting):
    """Random weights."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return self.normal(len(gramian), like=gramian)


class BendConfig(Config):
    """Settings with a list and a number."""

    points: Vector = Field((1.0, 2.0), description="Where.")
    power: float = Field(1.0, ge=0.0, description="How much.")


class Bend(GramianWeighting):
    """Has settings."""

    Config = BendConfig

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        self.register_constant("points", self.config.points)
        self.register_constant("nothing", None)

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_gramian_is_solved_in_float64_and_answered_in_its_dtype(dtype: torch.dtype) -> None:
    method = Noting()
    weights = method(torch.eye(3, dtype=dtype, requires_grad=True))
    assert method.given.dtype == torch.float64
    assert not method.given.requires_grad
    assert weights.dtype == dtype
    assert not weights.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rows_and_losses_are_never_in_half_precision(dtype: torch.dtype) -> None:
    working = torch.float64 if dtype == torch.float64 else torch.float32
    rows, direction, losses = NotingRows(), NotingDirection(), NotingLosses()
    for method in (rows, direction, losses):
        assert method(torch.ones(2, 3, dtype=dtype)).dtype == dtype
        assert method.given.dtype == working


def test_losses_keep_their_graph() -> None:
    losses = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    NotingLosses()(losses).backward()
    assert torch.equal(losses.grad, torch.ones(2, dtype=torch.bfloat16))


def test_what_else_a_method_needs_arrives_by_name() -> None:
    for method, statistic in ((Noting(), torch.eye(2)), (NotingRows(), torch.ones(2, 3))):
        method(statistic, losses=torch.tensor([1.0, 2.0]))
        assert method.extra["losses"].tolist() == [1.0, 2.0]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 0), (2, 2, 2)])
def test_what_is_no_gramian_is_refused_with_its_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"noting needs a Gramian of shape \[m, m\]") as error:
        Noting()(torch.ones(shape))
    assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize("method", [NotingRows(), NotingDirection()])
@pytest.mark.parametrize("shape", [(), (3,), (0, 3), (2, 2, 2)])
def test_what_is_no_jacobian_is_refused_with_its_shape(
    method: BaseMethod, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match=r"needs a Jacobian of shape \[m, n\]") as error:
        method(torch.ones(shape))
    assert str(list(shape)) in str(error.value)


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        (
            GramianWeighting,
            torch.eye(2),
            r"must return a tensor of shape \[2\], but returned \[3\]",
        ),
        (JacobianWeighting, torch.ones(2, 5), r"shape \[2\], but returned \[3\]"),
        (Aggregator, torch.ones(2, 5), r"shape \[5\], but returned \[3\]"),
        (Scalarizer, torch.ones(2), r"shape \[\], but returned \[3\]"),
    ],
)
def test_an_answer_of_the_wrong_shape_is_the_authors_mistake(
    base: type[Any], given: Tensor, expected: str
) -> None:
    class ThreeOfThem(base):  # type: ignore[misc]
        def forward(self, given: Tensor, /) -> Tensor:
            return torch.ones(3)

    with pytest.raises(TypeError, match=expected) as error:
        ThreeOfThem()(given)
    assert "three-of-them" in str(error.value)


@pytest.mark.parametrize("base", [GramianWeighting, JacobianWeighting, Aggregator, Scalarizer])
def test_an_answer_that_is_no_tensor_is_the_authors_mistake(base: type[Any]) -> None:
    class Numbers(base):  # type: ignore[misc]
        def forward(self, given: Tensor, /) -> Any:
            return 1.0

    with pytest.raises(TypeError, match=r"must return a tensor of shape .*, but returned .*float"):
        Numbers()(torch.eye(2))


def test_a_weighted_sum_gives_its_weighting_what_that_needs() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    gramian, rows = Noting(), NotingRows()
    found = WeightedSum(gramian)(jacobian)
    assert torch.equal(gramian.given, (jacobian @ jacobian.T).double())
    assert torch.equal(found, torch.tensor([5.0, 11.0]))
    assert torch.equal(WeightedSum(rows)(jacobian), torch.tensor([3.0, 7.0]))
    assert torch.equal(rows.given, jacobian)


def test_a_weighted_sum_of_half_precision_does_not_overflow() -> None:
    class Mean(GramianWeighting):
        def forward(self, gramian: Tensor, /) -> Tensor:
            assert torch.isfinite(gramian).all()
            return gramian.new_full((len(gramian),), 0.5)

    jacobian = torch.full((2, 100), 600.0, dtype=torch.float16)
    assert torch.equal(WeightedSum(Mean())(jacobian), jacobian[0])


def test_a_weighted_sum_shows_its_weightings_name_and_settings() -> None:
    made = jd.aggregator("constant", weights=[1.0])
    assert made.name == "constant"
    assert made.config.weights == (1.0,)
    assert "ConstantWeighting(weights=(1.0,))" in repr(made)


@pytest.mark.parametrize("ability", ["reset", "after_update", "end_epoch"])
def test_a_weighted_sum_can_do_what_its_weighting_can(ability: str) -> None:
    class Able(Noting):
        def reset(self) -> None:
            self.done = "reset"

        def after_update(self, losses: Tensor, /) -> None:
            self.done = "after_update"

        def end_epoch(self) -> None:
            self.done = "end_epoch"

    method = Able()
    arguments = [torch.ones(2)] if ability == "after_update" else []
    getattr(WeightedSum(method), ability)(*arguments)
    assert method.done == ability


def test_losses_that_are_none_are_refused() -> None:
    with pytest.raises(
        ValueError, match="noting-losses needs at least one loss, but was given none"
    ):
        NotingLosses()(torch.ones(0))


def test_settings_are_keywords_and_shown_where_they_differ() -> None:
    assert repr(Bend()) == "Bend()"
    assert repr(Bend(power=2)) == "Bend(power=2.0)"
    with pytest.raises(TypeError):
        Bend(2.0)  # type: ignore[call-arg]


def test_settings_cannot_be_changed() -> None:
    method = Bend()
    with pytest.raises(ValueError, match="frozen"):
        method.config.power = 2.0


def test_constants_follow_the_method_and_are_no_state() -> None:
    method = Bend(points=torch.tensor([3.0, 4.0]))
    assert method.state_dict() == {}
    assert method.points.dtype == torch.float64
    assert method.points.tolist() == [3.0, 4.0]
    assert method.nothing is None
    assert method.to("meta").points.device.type == "meta"


def test_a_method_is_a_module_with_hooks() -> None:
    seen = []
    method = Noting()
    method.register_forward_hook(lambda module, arguments, answer: seen.append(answer))
    weights = method(torch.eye(2))
    assert isinstance(method, nn.Module)
    assert torch.equal(seen[0], weights.double())


def test_a_class_is_named_after_itself_until_it_is_resolved() -> None:
    assert NotingRows.name == NotingRows().name == "noting-rows"
    assert jd.weighting("imtl-g").name == type(jd.weighting("imtl-g")).name == "imtl-g"


def test_a_constant_comes_in_the_dtype_that_is_needed() -> None:
    found = Bend().constant("points", 2, torch.eye(2))
    assert found.dtype == torch.float32
    assert found.tolist() == [1.0, 2.0]


def test_a_constant_of_too_few_values_is_counted() -> None:
    with pytest.raises(
        jd.ConfigError, match="bend: points has 2 values, but there are 3 objectives"
    ):
        Bend().constant("points", 3, torch.eye(3))


def test_what_is_done_to_a_constant_does_not_change_the_setting() -> None:
    method = Bend()
    method.constant("points", 2, torch.eye(2, dtype=torch.float64)).zero_()
    assert method.points.tolist() == [1.0, 2.0]


def test_a_seeded_method_resumes_from_its_state() -> None:
    method, twin = Noise(seed=3), Noise(seed=4)
    method(torch.eye(2))
    twin.load_state_dict(method.state_dict())
    assert torch.equal(twin(torch.eye(2)), method(torch.eye(2)))
    twin = copy.deepcopy(method)
    assert torch.equal(twin(torch.eye(2)), method(torch.eye(2)))
    twin = pickle.loads(pickle.dumps(method))  # noqa: S301  # our own
    assert torch.equal(twin(torch.eye(2)), method(torch.eye(2)))


def test_a_seeded_state_does_not_fit_an_unseeded_method() -> None:
    with pytest.raises(jd.ConfigError, match=r"noise: .* with a seed, but .* seed=None"):
        Noise().load_state_dict(Noise(seed=1).state_dict())
    with pytest.raises(jd.ConfigError, match=r"noise: .* without a seed, but .* seed=1"):
        Noise(seed=1).load_state_dict(Noise().state_dict())


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "one"])
def test_an_impossible_seed_is_refused(seed: object) -> None:
    with pytest.raises(jd.ConfigError, match="noise: seed = "):
        Noise(seed=seed)


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1])
def test_any_other_seed_is_good(seed: int) -> None:
    assert torch.isfinite(Noise(seed=seed)(torch.eye(2))).all()


class Offsets(TrainableScalarizer):
    """Adds what is learned."""

    def forward(self, losses: Tensor, /) -> Tensor:
        return (losses + self.s).sum()


@pytest.mark.parametrize(
    ("shape", "expected"),
    [(3, (3,)), ((2, 3), (2, 3)), ([2], (2,)), ((), ()), (torch.Size([4]), (4,))],
)
def test_a_shape_is_an_int_or_a_tuple(shape: Any, expected: tuple[int, ...]) -> None:
    method = Offsets(shape=shape)
    assert method.s.shape == expected
    assert method(torch.ones(expected)).shape == ()


def test_losses_of_another_shape_are_refused_with_both() -> None:
    with pytest.raises(ValueError, match=r"losses of shape \[2\], but was given .*shape \[2, 1\]"):
        Offsets(shape=2)(torch.ones(2, 1))


def test_a_trainable_scalarizer_starts_at_zero_and_returns_to_it() -> None:
    method = Offsets(shape=2)
    assert not method.s.any()
    with torch.no_grad():
        method.s.add_(1.0)
    parameter = method.s
    method.reset()
    assert method.s is parameter
    assert not method.s.any()
    assert method.s.requires_grad


def test_a_weighting_that_looks_at_nothing_costs_no_gramian(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(blocks: Any) -> Tensor:
        raise AssertionError("a Gramian was formed")

    monkeypatch.setattr("jdframework.linalg.gramian", refuse)
    jacobian = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    assert torch.equal(jd.aggregator("mean")(jacobian), torch.tensor([2.0, 4.0]))
    with pytest.raises(AssertionError, match="a Gramian was formed"):
        jd.aggregator("upgrad")(jacobian)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_integers_and_complex_numbers_are_refused_rather_than_cut_short(dtype: torch.dtype) -> None:
    given = torch.eye(2, dtype=dtype)
    for method in (Noting(), NotingRows(), NotingDirection(), WeightedSum(Noting())):
        with pytest.raises(ValueError, match="needs real numbers of a floating dtype, not"):
            method(given)
    with pytest.raises(ValueError, match="needs real numbers of a floating dtype, not"):
        NotingLosses()(given)
