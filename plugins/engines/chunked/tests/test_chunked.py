"""The engine keeps every engine's promises, wherever it keeps the rows."""

from __future__ import annotations

from typing import Any, ClassVar

from jdframework.testing import EngineSuite


class TestChunkedByItself(EngineSuite):
    spec = "chunked"


class TestChunkedOnTheHost(EngineSuite):
    spec = "chunked"
    config: ClassVar[dict[str, Any]] = {
        "offload": "host",
        "memory": "1KB",
        "parallel_chunk_size": 2,
    }


class TestChunkedOnDisk(EngineSuite):
    spec = "chunked"
    config: ClassVar[dict[str, Any]] = {"offload": "disk", "memory": "200B"}


class TestChunkedWithoutOffloading(EngineSuite):
    spec = "chunked"
    config: ClassVar[dict[str, Any]] = {
        "offload": None,
        "memory": "200B",
        "parallel_chunk_size": 2,
    }
