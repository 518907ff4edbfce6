"""Any method within a memory budget: rows in chunks, kept elsewhere or taken again."""

from __future__ import annotations

from jd_plugin_chunked.engine import Chunked, ChunkedConfig

__all__ = ["Chunked", "ChunkedConfig"]
