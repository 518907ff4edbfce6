from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting

CELL = """
@jd.register("weighting", "from-a-notebook")
class Notebook(GramianWeighting):
    "Weights from a notebook."

    def forward(self, gramian):
        return gramian.new_full((len(gramian),), {value})
"""


def run_cell(value: float) -> None:
    exec(  # noqa: S102  # what a notebook does
        CELL.format(value=value),
        {"jd": jd, "GramianWeighting": GramianWeighting, "__name__": "__main__"},
    )


class First(GramianWeighting):
    """The first class of a name."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian[0]


class Second(GramianWeighting):
    """The second."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        return gramian[0]


@pytest.fixture(autouse=True)
def _clean() -> Iterator[None]:
    yield
    for name in ("from-a-notebook", "taken"):
        if name in jd.available("weighting"):
            jd.unregister("weighting", name)


def test_a_registered_class_resolves_by_name() -> None:
    run_cell(2.0)
    assert "from-a-notebook" in jd.available("weighting")
    method = jd.weighting("From_A_Notebook")
    assert method.name == "from-a-notebook"
    assert method(torch.eye(1)).item() == 2.0
    assert jd.aggregator("from-a-notebook").name == "from-a-notebook"


def test_running_the_cell_again_replaces_the_class() -> None:
    run_cell(2.0)
    run_cell(3.0)
    assert jd.weighting("from-a-notebook")(torch.eye(1)).item() == 3.0


def test_the_decorator_hands_the_class_back() -> None:
    assert jd.register("weighting", "taken")(First) is First


def test_a_registered_class_is_described() -> None:
    run_cell(2.0)
    described = jd.describe("from-a-notebook")
    assert described.summary == "Weights from a notebook."
    assert described.distribution is None
    assert described.version is None


def test_a_name_that_another_class_has_is_refused() -> None:
    jd.register("weighting", "taken")(First)
    with pytest.raises(jd.NameConflictError, match=r"the weighting 'taken' is taken by .*First"):
        jd.register("weighting", "taken")(Second)
    assert type(jd.weighting("taken")) is First


@pytest.mark.parametrize("name", ["mgda", "imtlg", "rlw"])
def test_the_name_of_an_installed_plugin_is_refused(name: str) -> None:
    with pytest.raises(jd.NameConflictError, match="is taken by jd-plugin-"):
        jd.register("weighting", name)(First)


def test_the_name_may_be_that_of_another_kind() -> None:
    jd.register("weighting", "taken")(First)
    with pytest.raises(jd.UnknownNameError):
        jd.scalarizer("taken")


@pytest.mark.parametrize("name", ["My-Method", "my_method", "my method", "", "-a", "a--b", "é"])
def test_a_name_that_is_not_kebab_case_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="use lower case and hyphens, as in 'my-method'"):
        jd.register("weighting", name)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown kind 'optimizer'"):
        jd.register("optimizer", "my-method")  # type: ignore[arg-type]


def test_a_class_of_another_base_is_refused() -> None:
    with pytest.raises(jd.PluginLoadError, match=r"First does not derive from .*Scalarizer"):
        jd.register("scalarizer", "taken")(First)
    with pytest.raises(jd.PluginLoadError, match=r"int does not derive from .*Weighting"):
        jd.register("weighting", "taken")(int)
    assert "taken" not in jd.available()


def test_what_is_no_class_is_refused() -> None:
    for given in (3, First(), lambda gramian: gramian):
        with pytest.raises(jd.PluginLoadError, match=r"'taken' of .* is not usable: it is"):
            jd.register("weighting", "taken")(given)  # type: ignore[type-var]


def test_what_was_registered_can_be_taken_back() -> None:
    jd.register("weighting", "taken")(First)
    jd.unregister("weighting", "Taken")
    assert "taken" not in jd.available()
    with pytest.raises(jd.UnknownNameError, match="no weighting 'taken' was registered"):
        jd.unregister("weighting", "taken")


def test_an_installed_plugin_cannot_be_taken_back() -> None:
    with pytest.raises(jd.UnknownNameError, match="no weighting 'mgda' was registered"):
        jd.unregister("weighting", "mgda")
