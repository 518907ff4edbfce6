"""The names of the objectives that a method remembers by their places."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Final, cast

import torch
from torch import Tensor, nn

_KEY: Final = "objective_names"


class NamedPlaces(nn.Module):
    """Mix-in of every method: its state tells what it remembers, and of which objectives.

    A method gets tensors, whose entries have no names. Who calls it with named losses leaves the
    names here (:func:`keep_names`), and compares the next ones with them (:func:`check_names`).
    They are part of ``state_dict()``, as the bytes of a JSON list, while anything in it has one
    place per objective. So a state that never saw a name has none, and loads all the same.
    """

    objective_names: tuple[str, ...] | None = None
    """By their places; None if the losses had no names, and after ``reset()``."""
    names_are_loaded: bool = False
    """Whether they come from a saved state, and no step was taken since."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        reset = vars(cls).get("reset")
        if callable(reset):
            cls.reset = _forgetting(reset)  # type: ignore[attr-defined]  # a method of few

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        names = self.objective_names
        if names is not None and has_places(self, len(names)):
            written = json.dumps(names).encode()
            destination[prefix + _KEY] = torch.tensor(
                list(written), dtype=torch.uint8, device="cpu"
            )

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """Takes the names out of what torch looks through, which knows of no such tensor."""
        saved = state_dict.get(prefix + _KEY)
        names = None if saved is None else tuple(json.loads(bytes(saved.tolist())))
        keep_names(self, names, loaded=names is not None)
        rest = {key: value for key, value in state_dict.items() if key != prefix + _KEY}
        super()._load_from_state_dict(rest, prefix, *arguments)


def kept_names(method: Any) -> tuple[str, ...] | None:
    """The names of the last step that had any, or of the state that was loaded after it.

    :param method: A weighting, an aggregator or a scalarizer.
    """
    names: tuple[str, ...] | None = getattr(_holder(method), _KEY, None)
    return names


def keep_names(method: Any, names: tuple[str, ...] | None, *, loaded: bool = False) -> None:
    """Notes whose places are whose, once a step is taken.

    :param method: A weighting, an aggregator or a scalarizer.
    :param names: In the losses' order; None forgets them.
    :param loaded: Whether they come from a saved state.
    """
    holder = _holder(method)
    holder.objective_names, holder.names_are_loaded = names, loaded


def check_names(method: Any, names: tuple[str, ...]) -> None:
    """Refuses other names, or another order, if the method remembers objectives by place.

    :param method: A weighting, an aggregator or a scalarizer.
    :param names: Those of the losses that it is to be called with.
    :raises ValueError: naming both orders.
    """
    before = kept_names(method)
    if before is None or names == before or len(names) != len(before):
        return
    if has_places(method, len(names)):
        whose = "the checkpoint has" if _holder(method).names_are_loaded else "the step before had"
        raise ValueError(
            f"losses has the objectives {', '.join(map(repr, names))}, but {whose} "
            f"{', '.join(map(repr, before))}, and {method.name} remembers them by their places: "
            f"give the same ones in the same order, or call reset()"
        )


def has_places(method: nn.Module, m: int) -> bool:
    """Whether anything in the method's state has one place for each of ``m`` objectives.

    :param method: A weighting, an aggregator or a scalarizer.
    :param m: The number of objectives.
    """
    return any(
        each.is_floating_point() and each.ndim > 0 and (m in each.shape or each.numel() == m)
        for each in _state(method)
    )


def _state(method: nn.Module) -> Iterator[Tensor]:
    """What ``state_dict()`` holds, which itself asks :func:`has_places`."""
    for module in method.modules():
        passing = module._non_persistent_buffers_set
        kept = [tensor for name, tensor in module._buffers.items() if name not in passing]
        extra: Any = None
        if type(module).get_extra_state is not nn.Module.get_extra_state:
            extra = module.get_extra_state()
        for tensor in (*module._parameters.values(), *kept, extra):
            if isinstance(tensor, Tensor):
                yield tensor


def _holder(method: Any) -> Any:
    """A plain weighted sum has no memory of its own: the weighting, which has, is reset alone."""
    return method.weighting if "is_weighted_sum" in vars(type(method)) else method


def _forgetting(reset: Callable[..., Any]) -> Callable[..., Any]:
    """A method's ``reset``, after which it remembers no objectives, and no names of theirs."""

    @wraps(reset)
    def forgets(self: Any, *args: Any, **kwargs: Any) -> Any:
        keep_names(self, None)
        return reset(self, *args, **kwargs)

    return cast("Callable[..., Any]", forgets)
