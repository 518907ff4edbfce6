from __future__ import annotations

from typing import Any

import pytest
import torch

import jdframework as jd


@pytest.mark.parametrize(
    ("spec", "settings", "message"),
    [
        (
            "upgrad",
            {"prev_vector": [1.0]},
            (
                "upgrad has no setting 'prev_vector': did you mean 'pref_vector'? It takes "
                "pref_vector, norm_eps, reg_eps, solver"
            ),
        ),
        ("mean", {"weights": [1.0]}, "mean has no setting 'weights': it takes none"),
        (
            "constant",
            {},
            (
                "constant needs the setting 'weights' (One weight per objective, of any sign, as a "
                "list or in the losses' shape): write "
                'jd.Descent(model, "constant", weights=[0.7, 0.3]), for instance'
            ),
        ),
        (
            "upgrad",
            {"reg_eps": -1.0},
            "upgrad: reg_eps = -1.0 was given, but input should be greater than or equal to 0",
        ),
        (
            "upgrad",
            {"norm_eps": "small"},
            (
                "upgrad: norm_eps = 'small' was given, but input should be a valid number, "
                "unable to parse string as a number"
            ),
        ),
    ],
)
def test_a_bad_setting_is_named_with_what_was_given_and_what_is_allowed(
    spec: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(jd.ConfigError) as error:
        jd.weighting(spec, **settings)
    assert str(error.value) == message


def test_each_mistake_gets_its_own_sentence() -> None:
    with pytest.raises(jd.ConfigError) as error:
        jd.weighting("upgrad", norm_eps=-1, reg_eps=-2, solvr="exact")
    sentences = str(error.value).splitlines()
    assert len(sentences) == 3
    assert all(sentence.startswith("upgrad") for sentence in sentences)
    assert any("did you mean 'solver'?" in sentence for sentence in sentences)


def test_a_mistake_within_a_list_says_where() -> None:
    with pytest.raises(
        jd.ConfigError, match=r"constant: weights = .*but its entry \[1\] is 'b', where"
    ):
        jd.weighting("constant", weights=[1.0, "b"])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_json_does_not_have_is_refused_in_numbers_and_in_lists(value: float) -> None:
    with pytest.raises(jd.ConfigError, match="reg_eps = .* was given, but input should be a finit"):
        jd.weighting("upgrad", reg_eps=value)
    with pytest.raises(jd.ConfigError, match=r"constant: weights = .* \[1\] is .* a finite num"):
        jd.weighting("constant", weights=torch.tensor([1.0, value]))


def test_an_empty_list_of_weights_is_refused() -> None:
    with pytest.raises(jd.ConfigError, match="constant: weights = "):
        jd.weighting("constant", weights=[])


@pytest.mark.parametrize("shape", [0, -1, (2, 0), "three", 2.5])
def test_an_impossible_shape_is_refused(shape: object) -> None:
    with pytest.raises(jd.ConfigError, match=r"uw: shape.* was given, but"):
        jd.scalarizer("uw", shape=shape)


def test_an_engines_settings_are_checked_too() -> None:
    with pytest.raises(jd.ConfigError, match="autojac has no setting 'chunk'"):
        jd.engine("autojac", chunk=1)
    with pytest.raises(jd.ConfigError, match="autojac: parallel_chunk_size = 0 was given, but"):
        jd.engine("autojac", parallel_chunk_size=0)


def test_a_config_error_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="mean has no setting 'x'"):
        jd.scalarizer("mean", x=1)


def test_a_class_names_itself_before_it_was_resolved() -> None:
    from jdframework.bases import GramianWeighting

    class NotResolvedYet(GramianWeighting):
        def forward(self, gramian: torch.Tensor, /) -> torch.Tensor:
            return gramian[0]

    with pytest.raises(jd.ConfigError, match="not-resolved-yet has no setting 'x': it takes none"):
        NotResolvedYet(x=1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64])
def test_a_tensor_is_as_good_as_a_list(dtype: torch.dtype) -> None:
    made = jd.weighting("constant", weights=torch.tensor([1, 2], dtype=dtype))
    assert made.config.weights == (1.0, 2.0)
    assert jd.weighting("upgrad", pref_vector=torch.ones(2)).config.pref_vector == (1.0, 1.0)


@pytest.mark.parametrize("weights", [[[1.0, 2.0], [3.0]], [[1.0], 2.0], [[]], {}, "12", 10**400])
def test_what_has_no_shape_is_refused(weights: object) -> None:
    with pytest.raises(jd.ConfigError, match="constant: weights = "):
        jd.weighting("constant", weights=weights)


def test_more_losses_than_memory_can_hold_are_refused() -> None:
    with pytest.raises(jd.ConfigError, match=r"uw: shape = .* but at most 1000000000 losses"):
        jd.scalarizer("uw", shape=10**30)
