"""The one object of a training loop: a method, and the engine that serves it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from jdframework import hooks, registry
from jdframework.autograd import shared_modules
from jdframework.autograd.accumulation import add_to_grad
from jdframework.autograd.autocast import without_autocast
from jdframework.autograd.eager import eager
from jdframework.autograd.graph import leaves_of
from jdframework.autograd.ranks import check_one_rank
from jdframework.autograd.rollback import OwnGradients, StateRollback
from jdframework.bases.objective_names import check_names, keep_names, kept_names
from jdframework.descent.backward_call import BackwardCall
from jdframework.descent.engine_choice import Choice, FixedEngine, choose, is_auto, preferred_kinds
from jdframework.descent.finite import FiniteCheck, PropagatedError
from jdframework.descent.independent_batches import Independent, independent_batches
from jdframework.descent.linearize import linearize
from jdframework.descent.ordinary_pass import ordinary_pass
from jdframework.descent.oversights import Oversights
from jdframework.descent.refusals import (
    check_choice,
    check_on_features,
    check_representation,
    check_wrapped,
)
from jdframework.descent.step import Step
from jdframework.descent.wrong_uses import (
    check_assignment,
    check_batch_dim,
    check_engine,
    check_keywords,
    check_method,
    check_modules,
    check_scaler,
)
from jdframework.errors import ConfigError, NonFiniteError
from jdframework.linearization.blocks import excluding, joined
from jdframework.linearization.combination import Combination, combine, pullback, weighting_of
from jdframework.linearization.features import Representation, as_features
from jdframework.linearization.loss_scale import LossScale
from jdframework.linearization.objectives import (
    Losses,
    check_differentiable,
    finite_ones,
    in_order,
    objectives,
)
from jdframework.protocols import ActsAfterUpdate, Engine, HasEpochs, Stateful
from jdframework.protocols.names import Kind
from jdframework.registry import Spec

OnNonFinite = Literal["raise", "skip", "drop", "propagate"]
On = Literal["parameters", "features"]


class Descent(nn.Module):
    """Trains modules on several objectives, by any method.

    A scalarizer takes one ordinary backward pass; a weighting or an aggregator runs on an engine.
    A name that is both (``mean``, ``sum``, ``constant``, ``random``) runs as the scalarizer, the
    cheaper way to the same step, unless an engine is named. Where ``features`` are given, it is the
    same for the trunk alone: with an engine, heads get their plain gradient, and not the weighted
    one.

    :param modules: The module, or the modules, whose parameters the objectives share.
    :param method: A spec of a weighting, an aggregator or a scalarizer.
    :param engine: A spec of an engine, or ``"auto"`` for the cheapest that serves the method and
        the model; scalarizers need none.
    :param on: On whose gradients the method works: ``"parameters"``, or ``"features"`` for those of
        the shared representation that ``backward`` is given (MGDA-UB). The latter is cheaper, one
        backward pass of the trunk in all, needs no engine, and the step's Gramian is the features'.
    :param batch_dim: The dimension along which instances are independent and each has its own
        loss; None if each objective depends on the whole batch.
    :param on_nonfinite: What to do if a loss or a gradient is NaN or infinite: ``"raise"``,
        ``"skip"`` the step and leave ``.grad`` as it is; ``"drop"`` the tasks whose loss is not
        finite, and take the step of the others (losses given one by one; where all, or a gradient,
        are not finite, the step is skipped); or ``"propagate"``: weights and ``.grad``
        are NaN, and the method is not called, so that it remembers nothing of the step; a method
        that claims to be ``robust`` (``trimmed-mean``) is.
    :param process_group: False says that each process of a ``torch.distributed`` job trains a model
        of its own; otherwise a step that would see the losses of one process alone is refused.
    :param config: The method's settings.
    :raises UnknownNameError: if no installed plugin offers a name.
    :raises ConfigError: if the method or the engine does not take its settings.
    :raises UnsupportedModelError: if no engine can serve the method on these modules.

    >>> model = torch.nn.Linear(4, 1)
    >>> descent = Descent(model, "upgrad", batch_dim=0)
    >>> step = descent.backward(model(torch.randn(8, 4)).square().flatten())
    >>> step.weights.shape, model.weight.grad.shape
    (torch.Size([8]), torch.Size([1, 4]))
    """

    def __init__(
        self,
        modules: shared_modules.Modules,
        method: Spec,
        *,
        engine: Spec = "auto",
        on: On = "parameters",
        batch_dim: int | None = None,
        on_nonfinite: OnNonFinite = "raise",
        process_group: Literal[False] | None = None,
        **config: Any,
    ) -> None:
        super().__init__()
        check_choice("on", on, On)
        check_choice("on_nonfinite", on_nonfinite, OnNonFinite)
        check_choice("process_group", process_group, Literal[False, None])
        check_modules(modules, method)
        check_method(method)
        check_engine(engine)
        check_batch_dim(batch_dim)
        # In a tuple, so that they do not become this module's own.
        self._shared = shared_modules.checked(modules)
        prefer = preferred_kinds(is_auto(engine) and on == "parameters")
        self.method = self._made(method, prefer, config)
        """The weighting, aggregator or scalarizer."""
        shared_modules.move_with(self._shared, self.method)
        self._on_nonfinite, self._on, self._process_group = on_nonfinite, on, process_group
        self._oversights = Oversights(self.method, batch_dim)
        self._choice = self._chosen(engine, on, batch_dim)
        shared_modules.bind(self.method, self._shared)
        self._steps = 0

    @property
    def engine(self) -> Engine | None:
        """The engine; None for a scalarizer, and on features, which need none."""
        return self._choice.engine

    @eager
    def backward(
        self,
        losses: Losses,
        *more: Tensor,
        features: Representation | None = None,
        independent: Independent | None = None,
        retain_graph: bool = False,
        scaler: GradScaler | None = None,
    ) -> Step:
        """Adds the method's update to ``.grad``, as ``torch.Tensor.backward`` adds a gradient.

        Whatever is raised on the way, and if the step is skipped, ``.grad`` and the method's state
        are as they were before.

        :param losses: A tensor of any shape, one objective per entry; a sequence of scalars; or a
            mapping from name to scalar.
        :param more: Refused: several losses are given as one sequence, or as one mapping.
        :param features: The shared representation of several tasks: a tensor, or a mapping, a
            sequence or a generator of tensors. Parameters past it, the heads', get their own plain
            gradient. Without it, they get the weighted one, as ``losses.backward(weights)`` would
            give them; so does, with it, whatever else the features depend on, such as layers before
            the given modules, along every path to the losses. Where all parameters of these are
            frozen, only heads get a gradient, and the step has no weights. A scalarizer makes no
            use of it.
        :param independent: The same objectives on another, independent batch, or a tuple of two
            such, for the methods that need a cross-gramian. With one, that is of its gradients and
            those of ``losses``; with two, of the gradients of these two. The update is the weighted
            sum of the gradients of ``losses`` in either case.
        :param retain_graph: Whether the graph can be used again.
        :param scaler: For mixed precision: multiplies the losses by its scale, so that ``.grad`` is
            what ``scaler.step`` expects. The method and the step see what they would without. An
            overflow, and a step that is skipped because of its losses, leave ``.grad`` NaN, whereby
            the scaler leaves out the update, and takes a smaller scale after it.
        :return: What the step did.
        :raises ValueError: if ``losses`` is empty, has an entry that is no scalar, or has no graph;
            if its names are others than in the step before, or in the state that was loaded, or
            in another order, and the method remembers the objectives; if the method needs
            ``independent`` batches and the right number of them with the same objectives is not
            given; if ``features`` is empty, or has a tensor twice, one without a graph or one that
            plays no part in the losses; if ``on="features"`` and there are no features.
        :raises NonFiniteError: if a loss, a gradient or a weight is not finite, naming the
            objective and the step, which is the number of earlier calls (with
            ``on_nonfinite="raise"``).

        Two tasks on a shared trunk, whose heads get their own plain gradient:

        >>> trunk, head = torch.nn.Linear(4, 3), torch.nn.Linear(3, 2)
        >>> descent = Descent(trunk, "mgda", on="features")
        >>> features = trunk(torch.randn(8, 4))
        >>> losses = head(features).square().mean(0)
        >>> step = descent.backward({"depth": losses[0], "normals": losses[1]}, features=features)
        >>> step.names, step.gramian.shape
        (('depth', 'normals'), torch.Size([2, 2]))

        MoDo takes its weights from two independent batches, SDMGrad from two others:

        >>> model = torch.nn.Linear(4, 3)
        >>> def losses_of_a_batch():
        ...     return model(torch.randn(8, 4)).square().mean(0)
        >>> descent = Descent(model, "modo")
        >>> step = descent.backward(losses_of_a_batch(), independent=losses_of_a_batch())
        >>> descent = Descent(model, "sdmgrad")
        >>> others = losses_of_a_batch(), losses_of_a_batch()
        >>> step = descent.backward(losses_of_a_batch(), independent=others)
        """
        check_scaler(scaler)
        if more:
            raise TypeError("give all losses together: backward([loss_1, loss_2, …])")
        # --8<-- [start:step]
        method = self.method
        call = self._read(losses, features, independent, retain_graph, scaler)
        made: Combination | None = None
        try:
            with without_autocast(), StateRollback(method):
                for batch in call.batches:
                    call.finite.losses(batch.values(), batch)
                if method.kind == "scalarizer":
                    made = ordinary_pass(method, call)
                else:
                    with OwnGradients(shared_modules.parameters_of(method)) as own:
                        lin, gramians = linearize(call, method, self._choice, self._shared)
                        with lin:
                            call.finite.gramians(gramians)
                            made = combine(lin, gramians, method, call.values.flatten())
                            call.finite.combination(made)
                            update = pullback(lin, made)
                    update = joined(update, own.scaled(call.scale.factor))
                    call.finite.gradients(*excluding(update, lin.covered))
                    add_to_grad(*update)
        except NonFiniteError as error:
            made = self._not_finite(error, call)
        finally:
            self._steps += 1
        if made is not None and isinstance(losses, Mapping):
            is_whole = call.given.m == len(losses)
            if is_whole or kept_names(method) is None:  # what a step drops keeps its place
                keep_names(method, call.given.names)
        self._oversights.look_back(self._shared, skipped=made is None)
        step = self._record(call, made)
        hooks.call("jd_step", step=step)
        return step
        # --8<-- [end:step]

    @eager
    def after_update(self, losses: Losses) -> None:
        """Tells the methods that act after the optimizer's step (FAMO) the new losses.

        :param losses: Those of the same batch, under the new parameters; a mapping in any order.
        :raises ValueError: if its names are not those of the last step.
        """
        if isinstance(self.method, ActsAfterUpdate):
            given, names = objectives(losses), kept_names(self.method)
            if isinstance(losses, Mapping) and names is not None:
                given = in_order(given, names, "after_update")
            self._oversights.reported("after_update")
            self.method.after_update(given.values())

    def end_epoch(self) -> None:
        """Tells the methods that have epochs (DWA) that one is over."""
        if isinstance(self.method, HasEpochs):
            self._oversights.reported("end_epoch")
            self.method.end_epoch()

    def reset(self) -> None:
        """Makes a stateful method forget earlier steps."""
        if isinstance(self.method, Stateful):
            self.method.reset()
        keep_names(self.method, None)

    def state_dict(  # type: ignore[override]  # torch has an overload for each way to call it
        self, *arguments: Any, **keywords: Any
    ) -> dict[str, Any]:
        """The method's state.

        :param arguments: Those of ``torch.nn.Module.state_dict``, by which a parent module asks.
        :param keywords: Likewise.
        """
        state: dict[str, Any] = self.method.state_dict(*arguments, **keywords)
        return state

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Puts the method's state back.

        :param state_dict: What :meth:`state_dict` gave.
        :param strict: Whether its keys must be exactly the method's.
        :param assign: Whether the method takes over the tensors instead of copying them.
        :return: The keys that were missing, and those that were not expected.
        :raises RuntimeError: if it is that of another method, or of other settings.
        """
        keep_names(self.method, None)
        return self.method.load_state_dict(state_dict, strict=strict, assign=assign)

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *arguments: Any
    ) -> None:
        """In a parent's state, the method's has no further prefix, as in :meth:`state_dict`."""
        own = [key for key in state_dict if key.startswith(prefix)]
        for key in own:
            state_dict[f"{prefix}method.{key.removeprefix(prefix)}"] = state_dict.pop(key)
        keep_names(self.method, None)
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    def close(self) -> None:
        """Leaves the model as it was before."""
        if self.engine is not None:
            self.engine.close()

    def forward(self, *_: Any, **__: Any) -> NoReturn:
        """Refused: a Descent computes nothing when it is called.

        :raises TypeError: naming :meth:`backward`.
        """
        raise TypeError(
            "a Descent is not called: descent.backward(losses) adds the update to .grad, where "
            "loss.backward() would stand"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        if "_choice" in vars(self):
            check_assignment(self.method, name, value)
        super().__setattr__(name, value)

    def __repr__(self) -> str:
        return f"Descent({self.method!r}, engine={self._choice.taken!r})"

    @staticmethod
    def _made(spec: Spec, prefer: Sequence[Kind], config: Mapping[str, Any]) -> Any:
        try:
            return registry.method(spec, prefer=prefer, **config)
        except ConfigError:
            check_keywords(config, registry.settings_of(spec, prefer))
            raise

    def _chosen(self, engine: Spec, on: On, batch_dim: int | None) -> Choice:
        if on == "parameters":
            return choose(self._shared, self.method, engine, batch_dim)
        check_on_features(self.method, engine)
        check_wrapped(self._shared)
        return FixedEngine(
            None, "on='features' takes one backward pass of the shared modules and needs no engine"
        )

    def _read(
        self,
        losses: Losses,
        features: Representation | None,
        independent: Independent | None,
        retain_graph: bool,
        scaler: GradScaler | None,
    ) -> BackwardCall:
        """Reads and checks the arguments of ``backward``."""
        crossed = "cross-gramian" in self.method.needs
        if independent is not None and not crossed:
            raise ValueError(
                f"{self.method.name} makes no use of independent batches: leave them out"
            )
        everything = given = objectives(losses)
        if self._on_nonfinite == "drop":
            given = finite_ones(everything)
        if not self._weights_are_fixed:
            check_one_rank(f"{self.method.name} on {self._choice.taken}", self._process_group)
        self._oversights.look(losses, self._shared)
        if isinstance(losses, Mapping):
            check_names(self.method, everything.names)
            check_names(self.method, given.names)
        check_differentiable(given)
        method = weighting_of(self.method)
        others = independent_batches(method, independent, given) if crossed else ()
        cut_at = None if features is None else as_features(features)
        if self._on == "features":
            check_representation(given, cut_at, shared_modules.trained(self._shared))
        shared_modules.bind(self.method, self._shared)
        values = given.values()
        asked = scaler is not None or self._on_nonfinite != "propagate"
        finite = FiniteCheck(self._steps, given, self.method, self._names, asked)
        scale = LossScale(scaler, values.device)
        return BackwardCall(given, others, cut_at, retain_graph, scale, finite, values)

    def _not_finite(self, error: NonFiniteError, call: BackwardCall) -> Combination | None:
        """What becomes of a step that stopped at NaN or infinity; None if it is left out.

        A scaler finds NaN in ``.grad`` and leaves out the update by itself.
        """
        in_losses = not bool(torch.isfinite(call.values).all())
        gramian = error.gramian if isinstance(error, PropagatedError) else None
        scaled = call.scale.factor is not None
        if gramian is not None or (scaled and not (in_losses and self._on_nonfinite == "raise")):
            leaves = leaves_of(call.given.tensors)
            add_to_grad(leaves, [torch.full_like(leaf, math.nan) for leaf in leaves])
        elif self._on_nonfinite not in ("skip", "drop"):
            raise error
        if gramian is None:
            return None
        weights = torch.full_like(call.values.reshape(-1), math.nan)
        return Combination(self.method, [self.method], [weights], ([], []), gramian)

    def _record(self, call: BackwardCall, made: Combination | None) -> Step:
        return Step(
            names=call.given.names,
            skipped=made is None,
            losses=call.values.reshape(-1),
            weights=None if made is None else made.of_all,
            gramian=None if made is None else made.gramian,
            engine=self._choice.taken,
            reason=self._choice.reason,
        )

    @property
    def _weights_are_fixed(self) -> bool:
        """Whether averaging what the ranks make of their own losses is the step of all."""
        return self.engine is None and getattr(self.method, "fixed_weights", False)

    def _names(self) -> dict[int, str]:
        """What to call each parameter, by its identity; the method's own begin with its name."""
        learned = self.method.named_parameters(prefix=self.method.name)
        return shared_modules.parameter_names(self._shared) | {id(p): name for name, p in learned}
