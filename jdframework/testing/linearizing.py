"""The part of the engines' suite that holds ``linearize`` to its contract."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import jdframework as jd
from jdframework.linearization import Linearization
from jdframework.protocols.names import Kind
from jdframework.testing.architectures import ARCHITECTURES, Architecture, SharedTrunk
from jdframework.testing.suite import Suite
from jdframework.testing.truth import InverseNorms, check_close, joined, rows


class LinearizationTests(Suite):
    """Holds what an engine's ``linearize`` gives to the protocol of a linearization."""

    kind: ClassVar[Kind] = "engine"

    refuses: ClassVar[frozenset[str]] = frozenset()
    """The names of the architectures that the engine refuses, with ``UnsupportedModelError``."""

    @pytest.fixture(params=ARCHITECTURES.values(), ids=str)
    def architecture(self, request: pytest.FixtureRequest) -> Architecture:
        """Each architecture in turn."""
        architecture: Architecture = request.param
        return architecture

    def engine(self, *modules: nn.Module, **changes: Any) -> Any:
        """A fresh engine for ``modules``; ``changes`` are settings that differ from the suite's."""
        return self.implementation()(*modules, **self.settings(**changes))

    def make(self, **changes: Any) -> Any:
        """A fresh engine for a small model.

        :param changes: Settings that differ from those of ``spec`` and ``config``.
        """
        return self.engine(nn.Linear(2, 1), **changes)

    def modes(self, architecture: Architecture) -> list[dict[str, Any]]:
        """The settings under which the engine must serve ``architecture``."""
        if "batch_dim" in self.config:
            return [{}]
        return [{"batch_dim": None}, *([{"batch_dim": 0}] if architecture.per_instance else [])]

    def cases(
        self, architecture: Architecture, *dtypes: torch.dtype
    ) -> Iterator[tuple[Any, nn.Module, torch.dtype]]:
        """An engine and its model for each mode and dtype; skips what the engine may refuse.

        :param architecture: What the model is of.
        :param dtypes: Of the model; float64 alone if none is given.
        """
        for dtype in dtypes or (torch.float64,):
            for mode in self.modes(architecture):
                model = architecture.model(dtype)
                if architecture.name in self.refuses:
                    self._check_refusal(model, architecture, mode)
                else:
                    yield self.engine(model, **mode), model, dtype
        if architecture.name in self.refuses:
            pytest.skip(f"not applicable: the engine refuses the architecture {architecture}")

    def _check_refusal(
        self, model: nn.Module, architecture: Architecture, mode: dict[str, Any]
    ) -> None:
        with pytest.raises(jd.UnsupportedModelError):
            self.engine(model, **mode).compute_gramian(architecture.losses(model))

    def test_a_linearization_writes_no_grad(self, architecture: Architecture) -> None:
        """Gramians and ``Jᵀw`` are handed back; ``.grad`` is for who asked for them."""
        for engine, model, _ in self.cases(architecture):
            with engine.linearize([architecture.losses(model)]) as lin:
                assert isinstance(lin, Linearization), f"linearize gave {type(lin).__name__}"
                lin.gramians()
                lin.vjp([torch.ones(3, dtype=torch.float64)])
            assert all(p.grad is None for p in model.parameters()), "a linearization filled .grad"

    def test_its_gramian_and_vjp_are_those_of_autograd(self, architecture: Architecture) -> None:
        """``gramians()`` is ``[J Jᵀ]``, ``vjp([w])`` is ``Jᵀw`` for the inputs, each once."""
        for engine, model, dtype in self.cases(architecture, torch.float32, torch.float64):
            losses = architecture.losses(model)
            truth = rows(losses, engine.parameters)
            weights = torch.tensor([1.0, -2.0, 0.5], dtype=dtype)
            with engine.linearize([losses]) as lin:
                assert list(map(id, lin.inputs)) == list(map(id, engine.parameters))
                (gramian,) = lin.gramians()
                tensors, gradients = lin.vjp([weights])
            jacobian = joined(truth).double()
            check_close(gramian, jacobian @ jacobian.T, dtype, "the linearization's Gramian")
            expected = [torch.tensordot(weights, block, dims=1) for block in truth]
            self._check_update(engine.parameters, tensors, gradients, expected, dtype)

    def test_groups_have_gramians_and_weights_of_their_own(
        self, architecture: Architecture
    ) -> None:
        """With ``groups``, there is one Gramian for each, and ``vjp`` takes as many weights."""
        for engine, model, dtype in self.cases(architecture):
            losses, parameters = architecture.losses(model), engine.parameters
            truth = rows(losses, parameters)
            groups = [list(range(0, len(parameters), 2)), list(range(1, len(parameters), 2))]
            groups = [group for group in groups if group]
            weights = [torch.arange(1.0, 4.0, dtype=dtype) + g for g in range(len(groups))]
            with engine.linearize([losses], groups=groups) as lin:
                gramians = lin.gramians()
                tensors, gradients = lin.vjp(weights)
            for group, gramian in zip(groups, gramians, strict=True):
                jacobian = joined([truth[i] for i in group])
                if gramian is None:
                    assert not jacobian.any(), "a group that the losses reach has no Gramian"
                else:
                    check_close(gramian, jacobian @ jacobian.T, dtype, "a group's Gramian")
            owner = {i: weights[g] for g, group in enumerate(groups) for i in group}
            expected = [torch.tensordot(owner[i], block, dims=1) for i, block in enumerate(truth)]
            self._check_update(parameters, tensors, gradients, expected, dtype)

    def test_rows_may_start_anywhere(self) -> None:
        """With ``cotangents``, row i is ``J`` of the outputs, pulled back from the i-th of them."""
        model = ARCHITECTURES["shared heads"].model()
        assert isinstance(model, SharedTrunk)
        engine = self.engine(model.trunk, **self._whole_batch())
        features = model.trunk(ARCHITECTURES["shared heads"].input())
        cotangents = torch.stack([torch.full_like(features, 1.0 + i) * (i - 1) for i in range(3)])
        cotangents[1, 0] = 2.0
        parameters = engine.parameters
        truth = [
            torch.stack(blocks)
            for blocks in zip(
                *(
                    torch.autograd.grad(features, parameters, c, retain_graph=True)
                    for c in cotangents
                ),
                strict=True,
            )
        ]
        weights = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
        with engine.linearize([features], parameters, cotangents=[cotangents]) as lin:
            (gramian,) = lin.gramians()
            tensors, gradients = lin.vjp([weights])
        jacobian = joined(truth)
        check_close(gramian, jacobian @ jacobian.T, torch.float64, "the Gramian")
        expected = [torch.tensordot(weights, block, dims=1) for block in truth]
        self._check_update(parameters, tensors, gradients, expected, torch.float64)

    def test_other_leaves_are_outside_and_get_their_share(self) -> None:
        """Without ``inputs``, every other leaf is in ``outside``, and in what ``vjp`` gives."""
        trunk, head = nn.Linear(3, 4).double(), nn.Linear(4, 2).double()
        engine = self.engine(trunk, **self._whole_batch())
        losses = head(trunk(torch.ones(5, 3, dtype=torch.float64))).square().mean(0)
        weights = torch.tensor([0.25, 2.0], dtype=torch.float64)
        expected = torch.autograd.grad(losses, list(head.parameters()), weights, retain_graph=True)
        with engine.linearize([losses]) as lin:
            assert {id(p) for p in lin.outside} == {id(p) for p in head.parameters()}
            lin.gramians()
            tensors, gradients = lin.vjp([weights])
        found = {id(t): g for t, g in zip(tensors, gradients, strict=True)}
        for parameter, gradient in zip(head.parameters(), expected, strict=True):
            check_close(found[id(parameter)], gradient, torch.float64, "a leaf outside")

    def test_a_linearization_that_is_closed_halfway_holds_nothing(self) -> None:
        """A step that stops after the Gramian leaves the model and the next step as they were."""
        architecture = ARCHITECTURES["mlp"]
        for engine, model, dtype in self.cases(architecture):
            with engine.linearize([architecture.losses(model)]) as lin:
                lin.gramians()
            with torch.no_grad():
                for parameter in engine.parameters:
                    parameter.mul_(0.5)
            losses = architecture.losses(model)
            jacobian = joined(rows(losses, engine.parameters))
            weights = engine.backward(losses, InverseNorms())
            expected = InverseNorms()(jacobian @ jacobian.T)
            check_close(weights, expected, dtype, "the next step's weights")

    def test_the_jacobian_of_a_linearization_is_refused_or_right(self) -> None:
        """``jacobian()`` gives ``[m, *input.shape]`` for engines that can, and else is refused."""
        architecture = ARCHITECTURES["mlp"]
        for engine, model, dtype in self.cases(architecture):
            losses, parameters = architecture.losses(model), engine.parameters
            truth = rows(losses, parameters)
            if "jacobian" not in engine.capabilities:
                with pytest.raises(jd.UnsupportedModelError):
                    engine.compute_jacobian(losses)
                continue
            with engine.linearize([losses], parameters, need="rows") as lin:
                blocks = lin.jacobian()
                found = [block for block in blocks if block is not None]
                check_close(joined(found), joined(truth), dtype, "the Jacobian")

    def _check_update(
        self,
        parameters: list[nn.Parameter],
        tensors: list[Tensor],
        gradients: list[Tensor | None],
        expected: list[Tensor],
        dtype: torch.dtype,
    ) -> None:
        """Every input once or, where nothing depends on it, not at all; all of them together."""
        found: dict[int, Tensor] = {}
        for tensor, gradient in zip(tensors, gradients, strict=True):
            if gradient is not None:
                # A parameter in several parts, as where it is used twice, adds up.
                found[id(tensor)] = found.get(id(tensor), torch.zeros_like(tensor)) + gradient
        given = [found.get(id(p), torch.zeros_like(p)).flatten() for p in parameters]
        wanted = [each.flatten() for each in expected]
        check_close(torch.cat(given), torch.cat(wanted), dtype, "Jᵀw")

    def _whole_batch(self) -> dict[str, Any]:
        return {} if "batch_dim" in self.config else {"batch_dim": None}
