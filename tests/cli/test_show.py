"""``jd show``."""

from __future__ import annotations

import json

import pytest
import torch

import jdframework
from jdframework.protocols.names import KINDS

from .conftest import Command
from .fabrication import BROKEN, Site

INSTALLED = [(kind, name) for kind in KINDS for name in jdframework.available(kind)]


@pytest.mark.parametrize("spelling", ["upgrad", "UPGrad", "up_grad"])
def test_everything_known_of_a_method_is_shown(jd: Command, spelling: str) -> None:
    ended = jd("show", spelling)
    method = jdframework.describe("upgrad")
    assert ended.status == 0
    assert method.paper is not None
    for expected in (
        "upgrad weighting",
        method.summary,
        method.paper.title,
        method.paper.url,
        "the gramian",
        f"jd-plugin-upgrad {jdframework.__version__}",
        'descent = jd.Descent(model, "upgrad")',
        "step = descent.backward(losses)",
    ):
        assert expected in " ".join(ended.out.split())


def test_every_parameter_is_shown_with_type_default_bounds_and_description(jd: Command) -> None:
    shown = json.loads(jd("show", "upgrad", "--json").out)["parameters"]
    properties = jdframework.describe("upgrad").config_schema["properties"]
    assert [parameter["name"] for parameter in shown] == list(properties)
    assert next(p for p in shown if p["name"] == "reg_eps") == {
        "name": "reg_eps",
        "type": "float",
        "required": False,
        "default": 0.0,
        "bounds": ">= 0.0",
        "description": properties["reg_eps"]["description"],
    }
    out = " ".join(jd("show", "upgrad").out.split())
    assert f"reg_eps float 0.0 >= 0.0 {properties['reg_eps']['description']}"[:60] in out


def test_a_required_parameter_says_so_and_is_in_the_example(jd: Command) -> None:
    out = jd("show", "constant").out
    assert "required" in out
    assert 'jd.Descent(model, "constant", weights=[0.7, 0.3])' in out


def test_a_trainable_method_says_where_its_parameters_go(jd: Command) -> None:
    assert "give descent.parameters() to the optimizer" in jd("show", "uw").out


def test_the_example_shows_all_that_belongs_to_a_step(jd: Command) -> None:
    assert "descent.after_update(losses_now)" in jd("show", "famo").out
    assert "descent.end_epoch()" in jd("show", "dwa").out
    assert "independent=other_losses" in jd("show", "modo").out
    assert "independent=(second_losses, third_losses)" in jd("show", "sdmgrad").out


def test_an_alias_shows_its_method_and_the_method_its_aliases(jd: Command) -> None:
    shown = json.loads(jd("show", "rlw", "--json").out)
    assert shown["name"] == "random"
    assert "rlw" in shown["aliases"]


def test_a_name_of_two_kinds_says_how_to_see_the_other(jd: Command) -> None:
    assert "jd show mean --kind scalarizer" in jd("show", "mean").out
    scalarizer = jd("show", "mean", "--kind", "scalarizer").out
    assert "mean  scalarizer" in scalarizer
    assert jdframework.describe("mean", "scalarizer").summary in scalarizer


def test_json_has_the_schema_and_the_paper(jd: Command) -> None:
    shown = json.loads(jd("show", "mgda", "--json").out)
    method = jdframework.describe("mgda")
    assert method.paper is not None
    assert shown["config_schema"] == method.config_schema
    assert shown["paper"] == method.paper.model_dump()
    assert shown["needs"] == ["gramian"]


@pytest.mark.parametrize(("kind", "name"), INSTALLED)
def test_the_example_of_every_method_runs(jd: Command, kind: str, name: str) -> None:
    example = json.loads(jd("show", name, "--kind", kind, "--json").out)["example"]
    if "…" in example:
        pytest.skip("the example has something to fill in")
    model = torch.nn.Linear(3, 2)
    names = ("losses", "other_losses", "second_losses", "third_losses", "losses_now")
    batches = {name: model(torch.randn(4, 3)).square().mean(dim=0) for name in names}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    exec(example, {"jd": jdframework, "model": model, "optimizer": optimizer, **batches})  # noqa: S102
    assert model.weight.grad is not None


@pytest.mark.parametrize("arguments", [["upgrd"], ["uw", "--kind", "engine"], ["nothing-like-it"]])
def test_an_unknown_name_is_one_sentence_and_status_1(jd: Command, arguments: list[str]) -> None:
    ended = jd("show", *arguments)
    with pytest.raises(jdframework.UnknownNameError) as expected:
        jdframework.describe(arguments[0], "engine" if len(arguments) > 1 else None)
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == f"error: {expected.value}\n"


def test_a_broken_plugin_is_one_sentence_with_its_distribution_and_the_cause(
    jd: Command, site: Site
) -> None:
    site.weighting("jd-plugin-wreck", "wreck", BROKEN)
    ended = jd("show", "wreck")
    assert ended.status == 1
    assert ended.err.count("\n") == 1
    assert "jd-plugin-wreck 1.2.3" in ended.err
    assert "a library is missing" in ended.err


def test_a_clash_is_one_sentence_with_both_distributions(jd: Command, site: Site) -> None:
    site.weighting("jd-plugin-one", "twice")
    site.weighting("jd-plugin-two", "twice")
    ended = jd("show", "twice")
    assert ended.status == 1
    assert "offered by jd-plugin-one and by jd-plugin-two" in ended.err


def test_a_complaint_is_one_line_without_colour_or_traceback_in_a_pipe(
    installed_jd: Command,
) -> None:
    ended = installed_jd("show", "upgrd", COLUMNS="30")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("error: ")
    assert ended.err.endswith("?\n")
    assert ended.err.count("\n") == 1
