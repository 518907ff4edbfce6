"""What is in the wheels and the source distributions."""

from __future__ import annotations

import email.parser
import tarfile
import tomllib
import zipfile
from email.message import Message
from pathlib import Path

import pytest
from packaging.requirements import Requirement

import jdframework as jd
import wheelhouse as builder

from .environments import pip

SOURCES = builder.sources(builder.ROOT)


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(archive.read(name).decode())


def package(source: Path) -> Path:
    (marker,) = [*source.glob("src/*/py.typed"), *source.glob("jdframework/py.typed")]
    return marker.parent


@pytest.fixture(params=SOURCES, ids=lambda source: package(source).name)
def source(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def test_a_wheel_holds_every_file_of_its_package_and_nothing_else(
    source: Path, tmp_path: Path
) -> None:
    folder = package(source)
    expected = sorted(
        str(Path(folder.name) / path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    )
    names = contents(builder.build_wheel(source, tmp_path))
    assert [name for name in names if ".dist-info/" not in name] == expected


def test_a_wheel_says_what_its_pyproject_says(source: Path, tmp_path: Path) -> None:
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    built = metadata(builder.build_wheel(source, tmp_path))
    assert built["Name"] == project["name"]
    assert built["Version"] == jd.__version__
    assert built["Summary"] == project["description"]
    required = [Requirement(text) for text in built.get_all("Requires-Dist", [])]
    assert [str(r) for r in required if r.marker is None] == [
        str(Requirement(text)) for text in project["dependencies"]
    ]


def test_an_sdist_builds_the_same_wheel_as_the_tree(source: Path, tmp_path: Path) -> None:
    with tarfile.open(builder.build_sdist(source, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (unpacked,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    from_sdist, from_tree = tmp_path / "from-sdist", tmp_path / "from-tree"
    from_sdist.mkdir()
    from_tree.mkdir()
    assert contents(builder.build_wheel(unpacked, from_sdist)) == contents(
        builder.build_wheel(source, from_tree)
    )


def test_an_sdist_of_a_plugin_has_its_tests(tmp_path: Path) -> None:
    (upgrad,) = [source for source in SOURCES if source.name == "upgrad"]
    with tarfile.open(builder.build_sdist(upgrad, tmp_path)) as archive:
        names = archive.getnames()
    tests = [path.relative_to(upgrad) for path in upgrad.glob("tests/*.py")]
    assert tests
    assert all(any(name.endswith(f"/{test}") for name in names) for test in tests)


def test_pip_builds_the_kernel(tmp_path: Path) -> None:
    how = ["--no-build-isolation", "--no-deps", f"--wheel-dir={tmp_path}"]
    pip("wheel", *how, str(builder.ROOT))
    (by_pip,) = tmp_path.glob("*.whl")
    by_us = builder.build_wheel(builder.ROOT, tmp_path)
    assert contents(by_pip) == contents(by_us)
