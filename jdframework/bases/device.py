"""The device of what a method makes before it has seen any losses."""

from __future__ import annotations

import torch


def initial_device() -> torch.device:
    """The default device; the CPU where that is ``meta``, whose tensors have no numbers.

    ``jd.Descent`` moves a method to where the model's parameters are.
    """
    default = torch.get_default_device()
    return torch.device("cpu") if default.type == "meta" else default
