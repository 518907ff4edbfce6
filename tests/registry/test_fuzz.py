"""Whatever is thrown at a spec or at settings, what comes out is a method or a clear error."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import jdframework as jd
from jdframework.protocols.names import KINDS

NAMES = jd.available()
FIELDS = ["name", "weights", "seed", "shape", "pref_vector", "norm_eps", "solver", "batch_dim"]
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.sampled_from(NAMES)
    | st.sampled_from(
        [torch.eye(2), torch.ones(0), torch.tensor(float("nan")), object(), len, type]
    )
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=8) | st.sampled_from(FIELDS), inner, max_size=3)
    ),
    max_leaves=6,
)
SETTINGS = st.dictionaries(
    st.sampled_from(FIELDS[1:]) | st.from_regex(r"[a-z_]{1,8}", fullmatch=True), VALUES, max_size=3
)
FUZZ = settings(
    max_examples=150,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def check(kind: str, spec: Any, config: dict[str, Any]) -> None:
    """One call; anything but a method or a clear error is raised."""
    message = "made"
    try:
        made = getattr(jd, kind)(spec, **config)
    except (jd.JDError, ValueError, TypeError) as error:
        message = str(error)
    else:
        assert made.kind == kind
    assert message.strip()
    assert len(message) < 5000


@pytest.mark.parametrize("kind", KINDS)
def test_any_spec_gives_a_method_or_a_clear_error(kind: str) -> None:
    @FUZZ
    @given(VALUES)
    def thrown(spec: Any) -> None:
        check(kind, spec, {})

    thrown()


@pytest.mark.parametrize("kind", KINDS)
def test_any_settings_give_a_method_or_a_clear_error(kind: str) -> None:
    @FUZZ
    @given(st.sampled_from(NAMES), SETTINGS)
    def thrown(name: str, config: dict[str, Any]) -> None:
        check(kind, name, config)
        check(kind, {"name": name, **config}, {})

    thrown()


def test_any_name_can_be_looked_up() -> None:
    @FUZZ
    @given(st.text(max_size=30))
    def thrown(name: str) -> None:
        check("weighting", name, {})
        with contextlib.suppress(jd.UnknownNameError):
            assert jd.describe(name).name in NAMES

    thrown()


def test_any_value_of_the_blocking_variable_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    @FUZZ
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20))
    def thrown(blocked: str) -> None:
        monkeypatch.setenv("JD_DISABLE_PLUGINS", blocked)
        assert set(jd.available()) <= set(NAMES)

    thrown()
