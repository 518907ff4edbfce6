"""The suite of engines."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from typing import Final

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.bases import Aggregator, EngineConfig, GramianWeighting
from jdframework.linearization import Forecast
from jdframework.testing.architectures import ARCHITECTURES, Architecture, SharedTrunk
from jdframework.testing.linearizing import LinearizationTests
from jdframework.testing.truth import PRECISION, InverseNorms, check_close, joined, rows

CAPABILITIES: Final = frozenset({"gramian", "jacobian", "fused", "sharded"})


class LargestEntry(Aggregator):
    """A direction that is no weighted sum: the largest entry of each column."""

    def forward(self, jacobian: Tensor, /) -> Tensor:
        """``[m, n] -> [n]``."""
        return jacobian.max(dim=0).values


class Failing(GramianWeighting):
    """A method that raises in the middle of a step."""

    def forward(self, gramian: Tensor, /) -> Tensor:
        """Raises."""
        raise ArithmeticError("this method always fails")


# An engine may say in a warning that it falls back; what it computes is what counts here.
@pytest.mark.filterwarnings("ignore::UserWarning")
class EngineSuite(LinearizationTests):
    """Holds an engine to its contract; subclass it as ``Test…`` and set ``spec``.

    Every architecture is differentiated with ``batch_dim=None`` and, where each loss depends on
    one instance, with ``batch_dim=0``; what ``torch.autograd`` gives is the truth.
    """

    def test_capabilities_are_known_ones(self) -> None:
        """``capabilities`` is a subset of those that the framework asks for."""
        found = self.implementation().capabilities
        assert isinstance(found, frozenset), f"capabilities is {found!r}, not a frozenset"
        assert found <= CAPABILITIES, f"unknown capabilities: {', '.join(found - CAPABILITIES)}"

    def test_every_engine_takes_batch_dim(self) -> None:
        """``Config`` derives from ``EngineConfig``, so that all engines take the same settings."""
        assert issubclass(self.implementation().Config, EngineConfig)

    def test_the_gramian_is_that_of_autograd(self, architecture: Architecture) -> None:
        """``J Jᵀ`` to 1e-6 in float32 and 1e-12 in float64, ``[m, m]`` and without a graph."""
        for engine, model, dtype in self.cases(architecture, torch.float32, torch.float64):
            losses = architecture.losses(model)
            gramian = engine.compute_gramian(losses)
            jacobian = joined(rows(losses, engine.parameters)).double()
            assert gramian.shape == (3, 3), f"3 losses gave a Gramian {list(gramian.shape)}"
            assert not gramian.requires_grad, "the Gramian still requires gradients"
            check_close(gramian, jacobian @ jacobian.T, dtype, "the Gramian")

    def test_the_jacobian_is_that_of_autograd(self, architecture: Architecture) -> None:
        """One ``[m, *parameter.shape]`` per parameter, where the engine forms the Jacobian."""
        for engine, model, dtype in self.cases(architecture, torch.float32, torch.float64):
            losses = architecture.losses(model)
            if "jacobian" not in engine.capabilities:
                with pytest.raises(jd.UnsupportedModelError):
                    engine.compute_jacobian(losses)
                continue
            blocks = engine.compute_jacobian(losses)
            expected = rows(losses, engine.parameters)
            assert [block.shape for block in blocks] == [block.shape for block in expected]
            check_close(joined(blocks), joined(expected), dtype, "the Jacobian")

    def test_backward_is_the_weighted_backward(self, architecture: Architecture) -> None:
        """``.grad`` is that of ``losses.backward(weights)``, and the weights are handed back."""
        for engine, model, dtype in self.cases(architecture, torch.float32, torch.float64):
            losses = architecture.losses(model)
            jacobian = joined(rows(losses, engine.parameters)).double()
            weights = engine.backward(losses, InverseNorms())
            check_close(weights, InverseNorms()(jacobian @ jacobian.T), dtype, "the weights")
            control = architecture.model(dtype)
            architecture.losses(control).backward(weights.to(dtype))
            _check_grads(model, control, dtype)

    def test_the_classic_backward_stays_possible(self, architecture: Architecture) -> None:
        """After ``compute_gramian``, the user's own ``losses.backward(weights)`` works."""
        for engine, model, dtype in self.cases(architecture):
            losses = architecture.losses(model)
            weights = InverseNorms()(engine.compute_gramian(losses))
            assert all(p.grad is None for p in model.parameters()), "compute_gramian filled .grad"
            losses.backward(weights)
            control = architecture.model(dtype)
            architecture.losses(control).backward(weights)
            _check_grads(model, control, dtype)

    def test_verify_finds_no_error(self, architecture: Architecture) -> None:
        """``verify`` agrees that the Gramian is right."""
        for engine, model, dtype in self.cases(architecture, torch.float32, torch.float64):
            error = engine.verify(architecture.losses(model))
            assert error <= 10 * PRECISION[dtype], f"verify() gives {error:.1e} in {dtype}"

    def test_a_forecast_changes_nothing(self, architecture: Architecture) -> None:
        """It tells a mode in words and an amount of memory; graph, ``.grad`` and hooks stay."""
        for engine, model, _ in self.cases(architecture):
            losses = architecture.losses(model)
            hooked = _hooks(model)
            forecast = engine.forecast(losses, InverseNorms())
            assert isinstance(forecast, Forecast), f"the forecast is {forecast!r}, no Forecast"
            assert forecast.memory is None or forecast.memory >= 0
            assert all(p.grad is None for p in model.parameters()), "a forecast filled .grad"
            assert _hooks(model) == hooked, "a forecast left a hook behind"
            losses.sum().backward()

    def test_gradients_are_added_to_those_there(self, architecture: Architecture) -> None:
        """A second ``backward`` adds to ``.grad``, as ``torch.Tensor.backward`` does."""
        for engine, model, dtype in self.cases(architecture):
            engine.backward(architecture.losses(model), InverseNorms())
            once = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            engine.backward(architecture.losses(model), InverseNorms())
            for parameter, gradient in zip(model.parameters(), once, strict=True):
                assert (parameter.grad is None) == (gradient is None)
                if parameter.grad is not None and gradient is not None:
                    check_close(parameter.grad, 2 * gradient, dtype, ".grad after two steps")

    def test_frozen_parameters_take_no_part(self, architecture: Architecture) -> None:
        """A parameter without ``requires_grad`` is not in the Gramian, and gets no ``.grad``."""
        for engine, model, dtype in self.cases(architecture):
            frozen = next(model.parameters()).requires_grad_(False)
            losses = architecture.losses(model)
            jacobian = joined(rows(losses, engine.parameters))
            check_close(engine.compute_gramian(losses), jacobian @ jacobian.T, dtype, "the Gramian")
            engine.backward(losses, InverseNorms())
            assert frozen.grad is None, "a frozen parameter got a gradient"

    def test_a_failing_method_leaves_grad_untouched(self, architecture: Architecture) -> None:
        """Whatever is raised in the middle, ``.grad`` is as before and the next step is right."""
        for engine, model, dtype in self.cases(architecture):
            with pytest.raises(ArithmeticError, match="this method always fails"):
                engine.backward(architecture.losses(model), Failing())
            assert all(p.grad is None for p in model.parameters()), "a failed step filled .grad"
            weights = engine.backward(architecture.losses(model), InverseNorms())
            control = architecture.model(dtype)
            architecture.losses(control).backward(weights)
            _check_grads(model, control, dtype)
            before = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
            with pytest.raises(ArithmeticError, match="this method always fails"):
                engine.backward(architecture.losses(model), Failing())
            for parameter, gradient in zip(model.parameters(), before, strict=True):
                assert (parameter.grad is None) == (gradient is None)
                assert gradient is None or torch.equal(_grad(parameter), gradient)

    def test_close_leaves_no_hook_behind(self, architecture: Architecture) -> None:
        """After ``close()``, and after garbage collection, the model is free of hooks."""
        for engine, model, _ in self.cases(architecture):
            engine.backward(architecture.losses(model), InverseNorms())
            engine.close()
            assert not _hooks(model), f"close() left hooks on {', '.join(_hooks(model))}"
            engine.close()
        self._check_collected(architecture)

    def _check_collected(self, architecture: Architecture) -> None:
        model = architecture.model()
        engine = self.engine(model, **self.modes(architecture)[0])
        engine.backward(architecture.losses(model), InverseNorms())
        del engine
        if _hooks(model):
            gc.collect()
        assert not _hooks(model), f"a collected engine left hooks on {', '.join(_hooks(model))}"

    def test_no_graph_is_kept_alive(self, architecture: Architecture) -> None:
        """After a step the engine holds no losses, so that memory stays flat."""
        for engine, model, _ in self.cases(architecture):
            losses = architecture.losses(model)
            engine.backward(losses, InverseNorms())
            kept = weakref.ref(losses)
            del losses
            if kept() is not None:
                gc.collect()
            assert kept() is None, "the engine keeps the losses of an earlier step alive"

    def test_losses_of_any_form_are_the_same_objectives(self) -> None:
        """A tensor of any shape and a sequence of scalars give one Gramian."""
        model = nn.Linear(3, 4, dtype=torch.float64)
        inputs = torch.arange(3, dtype=torch.float64)
        engine = self.engine(model, **self._whole_batch())
        forms: list[Callable[[Tensor], Tensor | Sequence[Tensor]]] = [
            lambda losses: losses,
            lambda losses: losses.reshape(2, 2),
            lambda losses: list(losses.unbind()),
        ]
        found = [engine.compute_gramian(form(model(inputs).square())) for form in forms]
        for other in found[1:]:
            check_close(other, found[0], torch.float64, "the Gramian of another form of losses")

    def test_one_objective_is_the_ordinary_backward(self) -> None:
        """A scalar loss gives a ``[1, 1]`` Gramian and the gradient of its weighted self."""
        model = nn.Linear(3, 1, dtype=torch.float64)
        engine = self.engine(model, **self._whole_batch())
        loss = model(torch.ones(3, dtype=torch.float64)).square().sum()
        assert engine.compute_gramian(loss).shape == (1, 1)
        (expected,) = torch.autograd.grad(loss, model.weight, retain_graph=True)
        (weight,) = engine.backward(loss, InverseNorms())
        check_close(_grad(model.weight), weight * expected, torch.float64, ".grad")

    def test_a_method_without_weights_gives_its_direction(self) -> None:
        """An aggregator that is no weighted sum fills ``.grad`` with its direction."""
        architecture = ARCHITECTURES["mlp"]
        if "jacobian" not in self.implementation().capabilities:
            pytest.skip("not applicable: the engine never forms the Jacobian")
        for engine, model, dtype in self.cases(architecture):
            losses = architecture.losses(model)
            expected = LargestEntry()(joined(rows(losses, engine.parameters)))
            assert engine.backward(losses, LargestEntry()) is None
            found = torch.cat([_grad(p).flatten() for p in engine.parameters])
            check_close(found, expected, dtype, "the direction")

    def test_the_graph_is_freed_unless_retained(self) -> None:
        """``retain_graph=True`` allows another pass over the graph; without it there is none."""
        model = nn.Sequential(nn.Linear(3, 2), nn.Tanh()).double()
        engine = self.engine(model, **self._whole_batch())
        losses = model(torch.ones(3, dtype=torch.float64)).square()
        engine.backward(losses, InverseNorms(), retain_graph=True)
        engine.backward(losses, InverseNorms())
        with pytest.raises(RuntimeError, match="second time"):
            losses.sum().backward()

    def test_heads_get_their_plain_gradient(self) -> None:
        """With ``features``, the trunk gets the weighted gradient and each head its own loss's."""
        model, control = (ARCHITECTURES["shared heads"].model() for _ in range(2))
        assert isinstance(model, SharedTrunk)
        assert isinstance(control, SharedTrunk)
        features, losses = _task_losses(model)
        engine = self.engine(model.trunk, **self._whole_batch())
        weights = engine.backward(losses, InverseNorms(), features=[features])
        _, plain = _task_losses(control)
        trunk = list(control.trunk.parameters())
        jacobian = joined(rows(plain, trunk))
        expected = InverseNorms()(jacobian @ jacobian.T)
        check_close(weights, expected, torch.float64, "the weights")
        weighted = torch.autograd.grad(plain, trunk, expected, retain_graph=True)
        for parameter, gradient in zip(model.trunk.parameters(), weighted, strict=True):
            check_close(_grad(parameter), gradient, torch.float64, "the trunk's .grad")
        plain.sum().backward()
        _check_grads(model.heads, control.heads, torch.float64)


def _task_losses(model: SharedTrunk) -> tuple[Tensor, Tensor]:
    features = model.trunk(ARCHITECTURES["shared heads"].input())
    return features, torch.stack([head(features).square().mean() for head in model.heads])


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None, "a parameter got no gradient"
    return parameter.grad


def _check_grads(model: nn.Module, control: nn.Module, dtype: torch.dtype) -> None:
    """All of ``.grad`` at once: that of one parameter may be zero up to rounding."""
    found, expected = [], []
    pairs = zip(model.named_parameters(), control.parameters(), strict=True)
    for (name, parameter), other in pairs:
        if other.grad is None:
            assert parameter.grad is None or not parameter.grad.any(), f"{name} got a gradient"
        else:
            assert parameter.grad is not None, f"{name} got no gradient"
            found.append(parameter.grad.flatten())
            expected.append(other.grad.flatten())
    check_close(torch.cat(found), torch.cat(expected), dtype, ".grad")


def _hooks(model: nn.Module) -> list[str]:
    """The modules and parameters that have hooks."""
    found = []
    for name, module in model.named_modules():
        if any(table for field, table in vars(module).items() if field.endswith("_hooks")):
            found.append(name or "the model")
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            found.append(name)
    return found
