from __future__ import annotations

import itertools
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pluggy
import pytest
import torch

import jdframework as jd
from jdframework import hooks
from jdframework.hooks import hookimpl

_numbers = itertools.count()
Install = Callable[[str, str], str]

OBSERVING_MODULE = """
from jdframework.hooks import hookimpl

seen = []

@hookimpl
def jd_resolved(method):
    seen.append(method)
"""
OBSERVING_CLASS = """
from jdframework.hooks import hookimpl

seen = []

class Observer:
    @hookimpl
    def jd_resolved(self, method):
        seen.append(method)
"""


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[Any] = []
        self.resolved: list[Any] = []
        self.fallbacks: list[tuple[str, str]] = []

    @hookimpl
    def jd_step(self, step: Any) -> None:
        self.steps.append(step)

    @hookimpl
    def jd_resolved(self, method: Any) -> None:
        self.resolved.append(method)

    @hookimpl
    def jd_fallback(self, name: str, reason: str) -> None:
        self.fallbacks.append((name, reason))


class Failing:
    """An observer that always fails."""

    @hookimpl
    def jd_step(self, step: Any) -> None:
        raise OSError("the disk is full")


@pytest.fixture(autouse=True)
def _own_observers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers of this test alone."""
    monkeypatch.setattr(hooks, "_observers", hooks._Observers())


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution ``jd-plugin-NAME`` with one observer, whose value is CODE's."""
    modules: list[str] = []

    def fabricate(name: str, code: str) -> str:
        module = f"fabricated_observer_{next(_numbers)}"
        (tmp_path / f"{module}.py").write_text(code, "utf-8")
        info = tmp_path / f"jd_plugin_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: jd-plugin-{name}\nVersion: 1\n"
        )
        value = module + (":Observer" if "Observer" in code else "")
        (info / "entry_points.txt").write_text(f"[jdframework.hooks]\n{name} = {value}\n", "utf-8")
        modules.append(module)
        return module

    monkeypatch.syspath_prepend(str(tmp_path))
    yield fabricate
    for module in modules:
        sys.modules.pop(module, None)


def train(steps: int) -> tuple[torch.nn.Module, list[Any]]:
    """Some steps of a small model; the model and what ``backward`` returned."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
    descent = jd.Descent(model, "mgda")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    done = []
    for _ in range(steps):
        done.append(descent.backward(model(torch.arange(3.0)).square()))
        optimizer.step()
        optimizer.zero_grad()
    return model, done


def test_a_registered_observer_sees_every_step() -> None:
    recorder = Recorder()
    hooks.register(recorder)
    _, steps = train(3)
    assert len(recorder.steps) == 3
    assert all(seen is step for seen, step in zip(recorder.steps, steps, strict=True))


def test_an_observer_hears_of_each_method_made_from_a_spec() -> None:
    recorder = Recorder()
    hooks.register(recorder)
    made = [jd.weighting("mean"), jd.scalarizer({"name": "uw", "shape": 2}), jd.engine("autojac")]
    assert recorder.resolved == made
    jd.weighting(made[0])
    assert recorder.resolved == made


def test_an_unregistered_observer_hears_no_more() -> None:
    recorder = Recorder()
    hooks.register(recorder)
    jd.weighting("mean")
    hooks.unregister(recorder)
    jd.weighting("mean")
    assert len(recorder.resolved) == 1


def test_registering_twice_is_refused() -> None:
    recorder = Recorder()
    hooks.register(recorder)
    with pytest.raises(ValueError, match="already registered"):
        hooks.register(recorder)


def test_an_observer_may_take_fewer_arguments() -> None:
    seen = []

    class Terse:
        @hookimpl
        def jd_fallback(self, name: str) -> None:
            seen.append(name)

        @hookimpl
        def jd_step(self) -> None:
            seen.append("step")

    hooks.register(Terse())
    hooks.call("jd_fallback", name="autojac", reason="because")
    hooks.call("jd_step", step=None)
    assert seen == ["autojac", "step"]


def test_an_observer_that_asks_for_too_much_is_refused_when_registered() -> None:
    class Greedy:
        @hookimpl
        def jd_step(self, step: Any, weather: Any) -> None:
            pass

    with pytest.raises(pluggy.PluginValidationError, match="weather"):
        hooks.register(Greedy())


@pytest.mark.parametrize("code", [OBSERVING_MODULE, OBSERVING_CLASS], ids=["module", "class"])
def test_an_installed_observer_is_called(install: Install, code: str) -> None:
    module = install("watcher", code)
    method = jd.weighting("mean")
    assert sys.modules[module].seen == [method]


def test_a_blocked_observer_is_not_loaded(
    install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    for blocked in ("watcher", "jd-plugin-watcher", "JD_Plugin_Watcher"):
        monkeypatch.setattr(hooks, "_observers", hooks._Observers())
        monkeypatch.setenv("JD_DISABLE_PLUGINS", blocked)
        if blocked == "watcher":
            module = install("watcher", "1 / 0")
        jd.weighting("mean")
        assert module not in sys.modules


def test_an_observer_that_cannot_be_loaded_gives_one_warning(install: Install) -> None:
    install("broken", "1 / 0")
    with pytest.warns(UserWarning, match="the hook plugin") as caught:
        jd.weighting("mean")
    jd.weighting("mean")
    assert [str(warning.message) for warning in caught] == [
        (
            "the hook plugin 'broken' cannot be loaded and is left out: "
            "ZeroDivisionError('division by zero')"
        )
    ]


@pytest.mark.parametrize("code", ["1 / 0", "import sys; sys.exit(3)"])
def test_a_broken_observer_leaves_the_others(install: Install, code: str) -> None:
    install("broken", code)
    recorder = Recorder()
    with pytest.warns(UserWarning, match="'broken' cannot be loaded"):
        hooks.register(recorder)
    jd.weighting("mean")
    assert len(recorder.resolved) == 1


def test_a_failing_observer_gives_one_warning_and_training_goes_on() -> None:
    expected, _ = train(3)
    recorder = Recorder()
    hooks.register(Failing(), name="logger")
    hooks.register(recorder)
    with pytest.warns(UserWarning, match="the hook plugin") as caught:
        model, steps = train(3)
    assert [str(warning.message) for warning in caught] == [
        (
            "the hook plugin 'logger' failed in jd_step, and training goes on: "
            "OSError('the disk is full')"
        )
    ]
    assert len(steps) == len(recorder.steps) == 3
    assert torch.equal(model.weight, expected.weight)


def test_stopping_the_program_from_an_observer_stops_it() -> None:
    class Interrupting:
        @hookimpl
        def jd_resolved(self, method: Any) -> None:
            raise KeyboardInterrupt

    hooks.register(Interrupting())
    with pytest.raises(KeyboardInterrupt):
        jd.weighting("mean")


def test_an_observer_cannot_change_what_is_resolved() -> None:
    class Replacing:
        @hookimpl
        def jd_resolved(self, method: Any) -> Any:
            return jd.scalarizer("mean")

    hooks.register(Replacing())
    assert jd.weighting("mean").kind == "weighting"


def test_observers_are_called_in_pluggys_order() -> None:
    order = []

    class Early:
        @hookimpl(tryfirst=True)
        def jd_resolved(self, method: Any) -> None:
            order.append("first")

    class Late:
        @hookimpl(trylast=True)
        def jd_resolved(self, method: Any) -> None:
            order.append("last")

    hooks.register(Late())
    hooks.register(Early())
    jd.weighting("mean")
    assert order == ["first", "last"]


def test_where_there_is_no_observer_pluggy_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks.call("jd_step", step=None)

    def refuse(*_: Any) -> Any:
        raise AssertionError("a hook cost more than a look at a set")

    monkeypatch.setattr(hooks._Observers, "_manager", refuse)
    hooks.call("jd_step", step=SimpleNamespace())


def test_an_observer_of_another_hook_costs_a_step_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Greeter:
        @hookimpl
        def jd_cli(self, app: Any) -> None:
            raise AssertionError("no command line was started")

    hooks.register(Greeter())
    hooks.call("jd_step", step=None)
    monkeypatch.setattr(hooks._Observers, "_manager", None)
    hooks.call("jd_step", step=None)


def test_a_hook_without_observers_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    hooks.call("jd_step", step=None)
    monkeypatch.setattr(hooks._Observers, "_manager", None)
    hooks.call("jd_step", step=None)


def test_after_the_last_observer_left_hooks_cost_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recorder = Recorder()
    hooks.register(recorder)
    hooks.unregister(recorder)
    hooks.call("jd_step", step=None)
    monkeypatch.setattr(hooks._Observers, "_manager", None)
    hooks.call("jd_step", step=None)


def test_no_observer_means_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(1)


def test_a_fallback_is_told() -> None:
    recorder = Recorder()
    hooks.register(recorder)
    hooks.call("jd_fallback", name="autojac", reason="vmap cannot run")
    assert recorder.fallbacks == [("autojac", "vmap cannot run")]


def test_the_specifications_are_those_of_the_contract() -> None:
    manager = pluggy.PluginManager("jdframework")
    manager.add_hookspecs(hooks.HookSpecs)
    found = {name for name in vars(manager.hook) if name.startswith("jd_")}
    assert found == {"jd_step", "jd_resolved", "jd_fallback", "jd_cli"}


def test_a_misspelt_hook_is_refused_by_name() -> None:
    class Misspelt:
        @hookimpl
        def jd_steps(self, step: Any) -> None:
            raise AssertionError("no such hook")

    observer = Misspelt()
    with pytest.raises(pluggy.PluginValidationError, match="unknown hook 'jd_steps'"):
        hooks.register(observer)
    hooks.register(Recorder())
    jd.weighting("mean")


def test_a_wrapper_is_refused_instead_of_never_called() -> None:
    class Wrapper:
        @hookimpl(wrapper=True)
        def jd_resolved(self, method: Any) -> Iterator[None]:
            yield

    with pytest.raises(ValueError, match="is a wrapper: observers are called one by one"):
        hooks.register(Wrapper())
