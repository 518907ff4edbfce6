"""What holds for every command: errors, interruption, the observers' own commands, completion."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess

import pytest

import jdframework
from jdframework import hooks

from .conftest import JD, Command
from .fabrication import BROKEN, Site

COMMANDS = """
import time
import typer
from jdframework import ConfigError
from jdframework.hooks import hookimpl

@hookimpl
def jd_cli(app: typer.Typer) -> None:
    @app.command()
    def greet() -> None:
        "Greet the user."
        typer.echo("good morning")

    @app.command()
    def refuse() -> None:
        raise ConfigError("the first thing is wrong\\nthe second [thing] too")

    @app.command()
    def wait() -> None:
        typer.echo("waiting")
        time.sleep(60)
"""


def test_an_observer_adds_commands(installed_jd: Command, site: Site) -> None:
    site.observer("jd-plugin-greeter", "greeter", COMMANDS)
    assert installed_jd("greet").out == "good morning\n"
    assert "Greet the user." in installed_jd("--help").out


def test_a_blocked_observer_adds_none(installed_jd: Command, site: Site) -> None:
    site.observer("jd-plugin-greeter", "greeter", COMMANDS)
    assert installed_jd("greet", JD_DISABLE_PLUGINS="greeter").status == 2


@pytest.mark.parametrize(
    "code",
    [
        BROKEN,
        "from jdframework.hooks import hookimpl\n\n@hookimpl\ndef jd_cli(app):\n    1 / 0\n",
    ],
    ids=["import", "call"],
)
def test_a_failing_observer_costs_one_warning_and_no_command(
    installed_jd: Command, site: Site, code: str
) -> None:
    site.observer("jd-plugin-watcher", "watcher", code)
    ended = installed_jd("list", "--json")
    assert ended.status == 0
    assert ended.err.startswith("warning: the hook plugin 'watcher' ")
    assert ended.err.count("\n") == 1


def test_each_sentence_of_an_error_is_one_line(installed_jd: Command, site: Site) -> None:
    site.observer("jd-plugin-greeter", "greeter", COMMANDS)
    ended = installed_jd("refuse")
    assert ended.status == 1
    assert ended.err == "error: the first thing is wrong\nerror: the second [thing] too\n"


def _interruptible() -> None:
    """A process started in the background may have been told to ignore the signal."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def test_an_interrupted_command_has_status_130_and_no_traceback(site: Site) -> None:
    site.observer("jd-plugin-greeter", "greeter", COMMANDS)
    environment = {**os.environ, "PYTHONPATH": str(site.root), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [JD, "wait"],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=_interruptible,  # noqa: PLW1509  # no thread runs here
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "Traceback" not in err


def test_the_version_is_the_kernels(jd: Command) -> None:
    assert jd("--version").out == f"jdframework {jdframework.__version__}\n"


def test_an_unknown_command_is_refused_with_status_2(jd: Command) -> None:
    assert jd("lst").status == 2


@pytest.mark.parametrize(
    ("command", "distribution"),
    [
        ("demo", "jd-plugin-demo"),
        ("gallery", "jd-plugin-gallery"),
        ("bench", "jd-plugin-bench"),
        ("new", "jd-plugin-template"),
        ("update", "jd-plugin-template"),
    ],
)
def test_a_command_whose_application_is_not_installed_says_what_to_install(
    jd: Command, monkeypatch: pytest.MonkeyPatch, command: str, distribution: str
) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    monkeypatch.setattr(hooks, "_observers", hooks._Observers())
    monkeypatch.setattr(hooks, "hook_entry_points", list)
    ended = jd(command, "--quick", "x")
    assert (ended.status, ended.out) == (1, "")
    assert ended.err == (
        f"error: jd {command} is part of {distribution}, which is not installed: "
        f"pip install {distribution}\n"
    )
    assert f" {command} " not in jd("--help").out


def test_a_command_of_a_blocked_application_names_the_variable(installed_jd: Command) -> None:
    ended = installed_jd("demo", JD_DISABLE_PLUGINS="jd-plugin-demo")
    assert ended.status == 1
    assert ended.err == (
        "error: jd demo is part of jd-plugin-demo, which the environment variable "
        "JD_DISABLE_PLUGINS blocks\n"
    )


def test_completing_a_command_that_is_missing_complains_of_nothing(installed_jd: Command) -> None:
    line = {"COMP_WORDS": "jd demo --m", "COMP_CWORD": "2", "_JD_COMPLETE": "complete_bash"}
    ended = installed_jd(JD_DISABLE_PLUGINS="demo", **line)
    assert (ended.out.strip(), ended.err) == ("", "")


def completed(installed_jd: Command, line: str) -> list[str]:
    """What bash would offer at the end of ``line``."""
    last = str(len(line.split(" ")) - 1)
    ended = installed_jd(_JD_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=last)
    return ended.out.split()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("jd show imtl-", ["imtl-g", "imtl-l"]),
        ("jd show autoj", ["autojac"]),
        ("jd demo --methods sum,upg", ["sum,upgrad"]),
        ("jd demo --methods imtl-l,imt", ["imtl-l,imtl", "imtl-l,imtl-g"]),
        ("jd demo --methods autoj", []),
        ("jd list --kind sc", ["scalarizer"]),
    ],
)
def test_the_shell_completes_names(installed_jd: Command, line: str, expected: list[str]) -> None:
    assert completed(installed_jd, line) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_get_a_completion_script(installed_jd: Command, shell: str) -> None:
    ended = installed_jd(
        "--show-completion", shell, _TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION="1"
    )
    assert ended.status == 0
    assert "_JD_COMPLETE" in ended.out
