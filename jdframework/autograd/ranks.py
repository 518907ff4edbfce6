"""Refuses an update of one rank's batch alone where several ranks train one model."""

from __future__ import annotations

import sys
from typing import Any

from jdframework.errors import UnsupportedModelError


def ranks() -> int:
    """How many processes train together; 1 outside of a process group."""
    # Looked up where it is loaded: nobody has a process group who has not loaded it.
    distributed: Any = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return 1
    return int(distributed.get_world_size())


def check_one_rank(what: str, process_group: bool | None) -> None:
    """Refuses what only sees this rank's losses, unless each rank trains a model of its own.

    :param what: What is refused.
    :param process_group: False if each rank trains a model of its own.
    :raises UnsupportedModelError: with the remedy.
    """
    if process_group is not False and ranks() > 1:
        raise UnsupportedModelError(
            f"{what} would weigh the losses of this rank alone, and {ranks()} ranks are in the "
            f"process group, whose models would drift apart: train in one process, or give "
            f"process_group=False if each rank trains a model of its own"
        )
