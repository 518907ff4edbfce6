"""Engines that each break one promise; all else is autojac's."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from jdframework.bases import Aggregator
from jdframework.config import Config
from jdframework.linearization import Forecast, Wrapped
from jdframework.testing import EngineSuite

from jd_plugin_autojac import Autojac


class Telepathic(Autojac):
    capabilities: ClassVar[frozenset[str]] = frozenset({"gramian", "telepathy"})


class TestTelepathic(EngineSuite):
    spec = Telepathic
    caught_by = ("test_capabilities_are_known_ones",)


class NoSettings(Config):
    pass


class NoBatchDim(Autojac):
    Config = NoSettings


class TestNoBatchDim(EngineSuite):
    spec = NoBatchDim
    caught_by = ("test_every_engine_takes_batch_dim",)


class ForgetsBiases(Autojac):
    def compute_gramian(self, losses: Any, /) -> Tensor:
        blocks = self.compute_jacobian(losses)
        rows = torch.cat([block.flatten(1) for block in blocks if block.ndim > 2], dim=1)
        return rows @ rows.T


class TestForgetsBiases(EngineSuite):
    spec = ForgetsBiases
    caught_by = ("test_the_gramian_is_that_of_autograd", "test_verify_finds_no_error")


class RoundsToFloat32(Autojac):
    def compute_jacobian(self, losses: Any, /) -> tuple[Tensor, ...]:
        return tuple(block.float().to(block) for block in super().compute_jacobian(losses))


class TestRoundsToFloat32(EngineSuite):
    spec = RoundsToFloat32
    caught_by = ("test_the_jacobian_is_that_of_autograd",)


class Unweighted(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        gramian = self.compute_gramian(losses)
        losses.sum().backward()
        return method(gramian)


class TestUnweighted(EngineSuite):
    spec = Unweighted
    caught_by = ("test_backward_is_the_weighted_backward",)


class FreesTheGraph(Autojac):
    def compute_gramian(self, losses: Any, /) -> Tensor:
        gramian = super().compute_gramian(losses)
        losses.sum().backward(inputs=self.parameters)
        for parameter in self.parameters:
            parameter.grad = None
        return gramian


class TestFreesTheGraph(EngineSuite):
    spec = FreesTheGraph
    caught_by = ("test_the_classic_backward_stays_possible",)


class Overwrites(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        for parameter in self.parameters:
            parameter.grad = None
        return super().backward(losses, method, **options)


class TestOverwrites(EngineSuite):
    spec = Overwrites
    caught_by = ("test_gradients_are_added_to_those_there",)


class RemembersParameters(Autojac):
    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        self.found = super().parameters

    @property
    def parameters(self) -> list[nn.Parameter]:
        return self.found


class TestRemembersParameters(EngineSuite):
    spec = RemembersParameters
    caught_by = ("test_frozen_parameters_take_no_part",)


class FillsGradFirst(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        return super().backward(losses, method, **options)


class TestFillsGradFirst(EngineSuite):
    spec = FillsGradFirst
    caught_by = ("test_a_failing_method_leaves_grad_untouched",)


class LeavesAHook(Autojac):
    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        for module in modules:
            module.register_forward_hook(lambda *_: None)


class TestLeavesAHook(EngineSuite):
    spec = LeavesAHook
    caught_by = ("test_close_leaves_no_hook_behind",)


class LeavesAHookOnAParameter(Autojac):
    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        for parameter in self.parameters:
            parameter.register_post_accumulate_grad_hook(lambda _: None)


class TestLeavesAHookOnAParameter(EngineSuite):
    spec = LeavesAHookOnAParameter
    caught_by = ("test_close_leaves_no_hook_behind",)


class KeepsTheLosses(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        self.last = losses
        return super().backward(losses, method, **options)


class TestKeepsTheLosses(EngineSuite):
    spec = KeepsTheLosses
    caught_by = ("test_no_graph_is_kept_alive",)


class OnlyVectors(Autojac):
    def compute_gramian(self, losses: Any, /) -> Tensor:
        return super().compute_gramian([losses[i] for i in range(len(losses))])


class TestOnlyVectors(EngineSuite):
    spec = OnlyVectors
    caught_by = (
        "test_losses_of_any_form_are_the_same_objectives",
        "test_one_objective_is_the_ordinary_backward",
    )


class InventsWeights(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        weights = super().backward(losses, method, **options)
        return torch.ones(len(losses)) if isinstance(method, Aggregator) else weights


class TestInventsWeights(EngineSuite):
    spec = InventsWeights
    caught_by = ("test_a_method_without_weights_gives_its_direction",)


class AlwaysRetains(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        return super().backward(losses, method, **options | {"retain_graph": True})


class TestAlwaysRetains(EngineSuite):
    spec = AlwaysRetains
    caught_by = ("test_the_graph_is_freed_unless_retained",)


class WeighsTheHeads(Autojac):
    def backward(self, losses: Any, method: Any, /, **options: Any) -> Any:
        return super().backward(losses, method, **options | {"features": None})


class TestWeighsTheHeads(EngineSuite):
    spec = WeighsTheHeads
    caught_by = ("test_heads_get_their_plain_gradient",)


class TriesTheStep(Autojac):
    def forecast(self, losses: Any, method: Any, /, **options: Any) -> Forecast:
        self.backward(losses, method, **options)
        return super().forecast(losses, method, **options)


class TestTriesTheStep(EngineSuite):
    spec = TriesTheStep
    caught_by = ("test_a_forecast_changes_nothing",)


class FillsGrad(Wrapped):
    def vjp(self, weights: Any) -> Any:
        tensors, gradients = super().vjp(weights)
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = gradient
        return tensors, gradients


class Ascends(Wrapped):
    def vjp(self, weights: Any) -> Any:
        tensors, gradients = super().vjp(weights)
        return tensors, [None if g is None else -g for g in gradients]


class OneWeightForAll(Wrapped):
    def vjp(self, weights: Any) -> Any:
        return super().vjp([weights[0] for _ in weights])


class Forgetful(Wrapped):
    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.outside = []


class Doubled(Wrapped):
    def jacobian(self) -> Any:
        return tuple(None if block is None else 2 * block for block in super().jacobian())


class LinearizesToSomethingElse(Autojac):
    wrapper: ClassVar[Any]

    def linearize(self, *arguments: Any, **keywords: Any) -> Any:
        return type(self).wrapper(super().linearize(*arguments, **keywords))


class WritesGrad(LinearizesToSomethingElse):
    wrapper = FillsGrad


class TestWritesGrad(EngineSuite):
    spec = WritesGrad
    caught_by = ("test_a_linearization_writes_no_grad",)


class PullsBackTheWrongWay(LinearizesToSomethingElse):
    wrapper = Ascends


class TestPullsBackTheWrongWay(EngineSuite):
    spec = PullsBackTheWrongWay
    caught_by = ("test_its_gramian_and_vjp_are_those_of_autograd",)


class MixesGroups(LinearizesToSomethingElse):
    wrapper = OneWeightForAll


class TestMixesGroups(EngineSuite):
    spec = MixesGroups
    caught_by = ("test_groups_have_gramians_and_weights_of_their_own",)


class LeavesOthersOut(LinearizesToSomethingElse):
    wrapper = Forgetful


class TestLeavesOthersOut(EngineSuite):
    spec = LeavesOthersOut
    caught_by = ("test_other_leaves_are_outside_and_get_their_share",)


class DoublesRows(LinearizesToSomethingElse):
    wrapper = Doubled


class TestDoublesRows(EngineSuite):
    spec = DoublesRows
    caught_by = ("test_the_jacobian_of_a_linearization_is_refused_or_right",)


class StartsBackwards(Autojac):
    def linearize(self, *arguments: Any, cotangents: Any = None, **keywords: Any) -> Any:
        if cotangents is not None:
            cotangents = [cotangent.flip(0) for cotangent in cotangents]
        return super().linearize(*arguments, cotangents=cotangents, **keywords)


class TestStartsBackwards(EngineSuite):
    spec = StartsBackwards
    caught_by = ("test_rows_may_start_anywhere",)


class GoesOnWithTheLast(Autojac):
    def __init__(self, *modules: nn.Module, **config: Any) -> None:
        super().__init__(*modules, **config)
        self.last: Any = None

    def linearize(self, *arguments: Any, **keywords: Any) -> Any:
        if self.last is None:
            self.last = super().linearize(*arguments, **keywords)
        return self.last


class TestGoesOnWithTheLast(EngineSuite):
    spec = GoesOnWithTheLast
    caught_by = ("test_a_linearization_that_is_closed_halfway_holds_nothing",)
