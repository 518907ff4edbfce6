"""The suite of scalarizers."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given
from jaxtyping import Float
from torch import Tensor

from jdframework.protocols.names import Kind
from jdframework.testing.method import MethodSuite
from jdframework.testing.precision import precisions
from jdframework.testing.strategies import REPEATABLE, losses


class ScalarizerSuite(MethodSuite):
    """Holds a scalarizer to its contract; subclass it as ``Test…`` and set ``spec``."""

    kind: ClassVar[Kind] = "scalarizer"

    shapes: ClassVar[tuple[tuple[int, ...], ...]] = ((), (1,), (3,), (2, 3))
    """The losses' shapes to test. A method with the setting ``shape`` is tested on that alone."""
    permutation_invariant: ClassVar[bool] = True
    """Claim: the order of the losses does not change the value."""
    negative_losses: ClassVar[bool] = True
    """Claim: losses may be negative."""
    zero_losses: ClassVar[bool] = True
    """Claim: losses may be zero."""
    stops_gradient: ClassVar[bool] = False
    """Whether the method takes its weights, which depend on the losses, for constants (FAMO), so
    that its gradient is not the derivative of its value."""

    def sample(self, seed: int = 0) -> Float[Tensor, "..."]:
        """Losses between 0.5 and 2.5."""
        return _losses(self.shapes_to_test()[-1], seed)

    def shapes_to_test(self) -> tuple[tuple[int, ...], ...]:
        """The configured shape if there is one, :attr:`shapes` otherwise."""
        shape = getattr(self.make().config, "shape", None)
        return self.shapes if shape is None else (tuple(shape),)

    def losses_after(self, method: Any, sample: Tensor) -> Tensor:
        """Losses somewhat below those of the step."""
        return 0.9 * sample

    def test_the_value_is_a_scalar(self) -> None:
        """Losses of each shape give one finite value of shape ``[]``."""
        for shape in self.shapes_to_test():
            value = self.make()(_losses(shape))
            assert value.shape == (), f"losses {list(shape)} gave {list(value.shape)}"
            assert torch.isfinite(value), f"losses {list(shape)} gave {value}"

    def test_any_losses_get_a_finite_value(self) -> None:
        """Likewise for losses that hypothesis invents, from 1e-6 to 1e6."""

        @REPEATABLE
        @given(losses(self.shapes_to_test()[-1]))
        def check(given_losses: Tensor) -> None:
            value = self.make()(given_losses)
            assert torch.isfinite(value), f"{given_losses.tolist()} gave {value}"

        check()

    def test_dtype_and_device_are_handed_back(self) -> None:
        """The value has the losses' dtype and device."""
        for device, dtype in precisions():
            given_losses = self.sample().to(device, dtype)
            value = self.make().to(device)(given_losses)
            assert value.dtype == dtype, f"{dtype} in, {value.dtype} out"
            assert value.device == given_losses.device, f"{device} in, {value.device} out"
            assert torch.isfinite(value), f"{dtype}: got {value}"

    def test_the_gradient_reaches_the_losses(self) -> None:
        """Each loss gets a finite derivative of its own shape."""
        given_losses = self.sample().requires_grad_()
        value = self.make()(given_losses)
        assert value.requires_grad, "the value has no graph, so nothing can be trained with it"
        (gradient,) = torch.autograd.grad(value, given_losses)
        assert torch.isfinite(gradient).all(), f"the derivatives are {gradient.tolist()}"
        assert gradient.any(), "all derivatives are zero"

    def test_the_gradient_is_the_derivative(self) -> None:
        """In the losses and in the method's parameters, as finite differences measure it."""
        if self.stops_gradient:
            pytest.skip("not applicable: the method takes its weights for constants")
        method = self.make().double()
        method(self.sample())  # whereupon parameters have the losses' shape
        names = [name for name, _ in method.named_parameters()]
        parameters = [p.detach().clone().requires_grad_() for p in method.parameters()]

        def value(given_losses: Tensor, *values: Tensor) -> Tensor:
            # A copy for each call: a state that moves on would change the function.
            result: Tensor = torch.func.functional_call(
                copy.deepcopy(method), dict(zip(names, values, strict=True)), given_losses
            )
            return result

        assert torch.autograd.gradcheck(value, (self.sample().requires_grad_(), *parameters))

    def test_trainable_parameters_are_in_parameters(self) -> None:
        """What is trained is in ``parameters()``, gets a gradient, and the class says so."""
        method = self.make()
        parameters = [p for p in method.parameters() if p.requires_grad]
        assert bool(parameters) == bool(type(method).trainable), (
            f"the class says trainable = {type(method).trainable}, "
            f"but parameters() has {len(parameters)} that require gradients"
        )
        if not parameters:
            pytest.skip("not applicable: the method has no trainable parameters")
        method(self.sample()).backward()
        for name, parameter in method.named_parameters():
            assert parameter.grad is not None, f"the parameter {name!r} gets no gradient"
            assert torch.isfinite(parameter.grad).all(), f"{name!r} gets {parameter.grad.tolist()}"

    def test_negative_losses_get_a_finite_value(self) -> None:
        """Losses below zero (log-likelihoods, say) are served, where claimed."""
        if not self.negative_losses:
            pytest.skip("not applicable: no claim that losses may be negative")
        self._check_served(-self.sample())

    def test_zero_losses_get_a_finite_value(self) -> None:
        """Losses that reached zero are served, where claimed."""
        if not self.zero_losses:
            pytest.skip("not applicable: no claim that losses may be zero")
        self._check_served(torch.zeros_like(self.sample()))

    def _check_served(self, given_losses: Tensor) -> None:
        value = self.make()(given_losses.requires_grad_())
        (gradient,) = torch.autograd.grad(value, given_losses)
        assert torch.isfinite(value), f"{given_losses.tolist()} gave {value}"
        assert torch.isfinite(gradient).all(), (
            f"{given_losses.tolist()} gave the derivatives {gradient.tolist()}"
        )

    def test_no_loss_is_refused(self) -> None:
        """An empty tensor raises ``ValueError``."""
        with pytest.raises(ValueError, match=r"loss"):
            self.make()(torch.ones(0))

    def test_another_shape_than_the_configured_one_is_refused(self) -> None:
        """Where the shape is a setting, losses of another raise ``ValueError`` naming both.

        If it is None, the first losses tell it.
        """
        if "shape" not in self.implementation().Config.model_fields:
            pytest.skip("not applicable: the shape is no setting")
        method = self.make()
        shape = self.shapes_to_test()[0]
        if method.config.shape is None:
            method(_losses(shape))
        for wrong in [(*shape, 1), (shape[0] + 1, *shape[1:]) if shape else (2,)]:
            with pytest.raises(ValueError, match=r"shape") as refusal:
                method(torch.ones(wrong))
            assert str(list(shape)) in str(refusal.value)
            assert str(list(wrong)) in str(refusal.value)

    def test_permuted_losses_get_the_same_value(self) -> None:
        """The order of the losses does not matter, where claimed."""
        if not self.permutation_invariant:
            pytest.skip("not applicable: no claim of permutation invariance")
        for shape in self.shapes_to_test():
            given_losses = _losses(shape)
            permuted = given_losses.flatten().roll(1).flip(0).reshape(shape)
            torch.testing.assert_close(
                self.make()(permuted),
                self.make()(given_losses),
                msg=lambda text: f"permuted losses give another value: {text}",
            )


def _losses(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.5 + 2 * torch.rand(shape, generator=generator, dtype=torch.float64)
