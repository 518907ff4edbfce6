from __future__ import annotations

from typing import Any

import pytest
import torch

import jdframework as jd
from jdframework.bases import Aggregator, WeightedSum


class Largest(Aggregator):
    """The largest entry of each column."""

    def forward(self, jacobian: torch.Tensor, /) -> torch.Tensor:
        return jacobian.max(dim=0).values


def test_a_name_a_mapping_and_keywords_make_the_same() -> None:
    made = [
        jd.weighting("constant", weights=[1.0, 2.0]),
        jd.weighting({"name": "constant", "weights": [1.0, 2.0]}),
        jd.weighting({"name": "constant"}, weights=[1.0, 2.0]),
    ]
    assert [type(method).__name__ for method in made] == ["ConstantWeighting"] * 3
    assert [method.config.weights for method in made] == [(1.0, 2.0)] * 3


def test_a_mapping_is_left_as_it_was() -> None:
    spec = {"name": "constant", "weights": [1.0]}
    jd.weighting(spec)
    assert spec == {"name": "constant", "weights": [1.0]}


@pytest.mark.parametrize(
    ("kind", "name"),
    [("weighting", "mean"), ("aggregator", "mean"), ("scalarizer", "mean"), ("engine", "autojac")],
)
def test_an_instance_is_handed_back_as_it_is(kind: str, name: str) -> None:
    resolve = getattr(jd, kind)
    made = resolve(name)
    assert resolve(made) is made


def test_an_instance_takes_no_more_settings() -> None:
    made = jd.weighting("constant", weights=[1.0])
    with pytest.raises(jd.ConfigError) as error:
        jd.weighting(made, weights=[2.0])
    assert str(error.value) == (
        "ConstantWeighting is ready-made and takes no more settings: "
        "give weights to its constructor"
    )
    with pytest.raises(jd.ConfigError, match="give modules to its constructor"):
        jd.engine(jd.engine("autojac"), torch.nn.Linear(1, 1))


def test_a_setting_given_twice_is_refused() -> None:
    with pytest.raises(jd.ConfigError) as error:
        jd.weighting({"name": "constant", "weights": [1.0]}, weights=[2.0])
    assert str(error.value) == "constant: weights was given both in the spec and as a keyword"


@pytest.mark.parametrize("spec", [{}, {"weights": [1.0]}, {"name": 3}, {"name": None}])
def test_a_mapping_without_a_name_is_refused(spec: dict[str, Any]) -> None:
    with pytest.raises(jd.ConfigError, match="a spec needs the key 'name' with a string"):
        jd.weighting(spec)


@pytest.mark.parametrize("spec", [None, 3, 2.5, ["mean"], ("mean",), b"mean", object, torch.eye(2)])
def test_what_is_no_spec_is_refused_with_what_is_one(spec: object) -> None:
    for kind, wanted in {
        "weighting": "a weighting",
        "aggregator": "an aggregator or weighting",
        "scalarizer": "a scalarizer",
        "engine": "an engine",
    }.items():
        with pytest.raises(jd.ConfigError) as error:
            getattr(jd, kind)(spec)
        assert str(error.value).startswith(
            f"needed is a name, a mapping with 'name', or an instance of {wanted}, "
            f"not {type(spec).__name__} "
        )


def test_an_instance_of_another_kind_says_what_it_is() -> None:
    with pytest.raises(jd.ConfigError, match="of a weighting, not a scalarizer"):
        jd.weighting(jd.scalarizer("mean"))
    with pytest.raises(jd.ConfigError, match="of a scalarizer, not a weighting"):
        jd.scalarizer(jd.weighting("mean"))


def test_a_class_instead_of_an_instance_is_refused() -> None:
    with pytest.raises(jd.ConfigError, match=r"of a weighting, not .*MeanWeighting"):
        jd.weighting(type(jd.weighting("mean")))


def test_a_weighting_becomes_an_aggregator() -> None:
    jacobian = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    for spec in ("sum", {"name": "sum"}, jd.weighting("sum")):
        made = jd.aggregator(spec)
        assert isinstance(made, WeightedSum)
        assert made.name == "sum"
        assert made.needs == frozenset()
        assert torch.equal(made(jacobian), torch.tensor([4.0, 6.0]))


def test_settings_reach_the_weighting_of_an_aggregator() -> None:
    made = jd.aggregator("constant", weights=[1.0, -1.0])
    assert made.config.weights == (1.0, -1.0)
    with pytest.raises(jd.ConfigError, match="ready-made"):
        jd.aggregator(jd.weighting("mean"), weights=[1.0])


def test_an_aggregator_goes_before_the_weighting_of_its_name() -> None:
    jd.register("aggregator", "mean")(Largest)
    try:
        assert type(jd.aggregator("mean")) is Largest
        assert jd.weighting("mean").kind == "weighting"
    finally:
        jd.unregister("aggregator", "mean")
    assert isinstance(jd.aggregator("mean"), WeightedSum)


def test_an_engine_is_made_for_its_modules() -> None:
    modules = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 1)]
    engine = jd.engine({"name": "autojac", "parallel_chunk_size": 1}, *modules, batch_dim=0)
    assert list(engine.modules) == modules
    assert (engine.config.parallel_chunk_size, engine.config.batch_dim) == (1, 0)
