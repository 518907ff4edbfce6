"""Scales, precisions, degenerate Jacobians, and solvers that fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final
from unittest import mock

import cvxpy
import numpy as np
import scipy.optimize
import torch
import torchjd._linalg._dual_cone as peer_projection
import torchjd.aggregation as peer
from finding import Attempt, Finding, Row, attempt, counted, listed, relative_error, said
from torch import Tensor

import jdframework as jd
from jdframework.testing import derived_suite

_OBJECTIVES: Final = 3
_CONFLICT: Final = [[-4.0, 1.0, 1.0], [6.0, 1.0, 1.0]]
_SOLVING: Final = ("upgrad", "cagrad", "nash-mtl")
_SCALED: Final = ("upgrad", "dual-proj", "cagrad", "mgda", "aligned-mtl", "imtl-g")


def theirs(dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], Any]]:
    """The aggregators of torchjd, by our names; settings that are tensors have the dtype."""
    equal = torch.ones(_OBJECTIVES, dtype=dtype)
    return {
        "aligned-mtl": peer.AlignedMTL,
        "cagrad": lambda: peer.CAGrad(c=0.5),
        "config": peer.ConFIG,
        "constant": lambda: peer.Constant(equal),
        "dual-proj": peer.DualProj,
        "excess-mtl": peer.ExcessMTL,
        "fairgrad": lambda: peer.FairGrad(alpha=1.0),
        "graddrop": peer.GradDrop,
        "gradvac": peer.GradVac,
        "imtl-g": peer.IMTLG,
        "krum": lambda: peer.Krum(n_byzantine=0),
        "mean": peer.Mean,
        "mgda": peer.MGDA,
        "nash-mtl": lambda: peer.NashMTL(n_tasks=_OBJECTIVES),
        "pcd": peer.PCD,
        "pcgrad": peer.PCGrad,
        "random": peer.Random,
        "sum": peer.Sum,
        "trimmed-mean": lambda: peer.TrimmedMean(trim_number=1),
        "upgrad": peer.UPGrad,
    }


def ours(dtype: torch.dtype = torch.float32) -> dict[str, Callable[[], Any]]:
    """Our aggregators of the same names; their settings have no dtype."""

    def maker(name: str) -> Callable[[], Any]:
        return lambda: jd.aggregator(name, **derived_suite("aggregator", name).config)

    return {name: maker(name) for name in theirs()}


def _answer(make: Callable[[], Any], jacobian: Tensor) -> Tensor:
    found: Tensor = make()(jacobian)
    return found


def scales() -> Row:
    """Row 1."""
    jacobian = torch.tensor(_CONFLICT, dtype=torch.float64)

    def changes(makers: Mapping[str, Callable[[], Any]]) -> Finding:
        found = []
        for name in _SCALED:
            expected = makers[name]()(jacobian)
            worst, largest = 0.0, 0.0
            for exponent in range(-12, 13):
                scale = 10.0**exponent
                gap = makers[name]()(scale * jacobian) / scale - expected
                change = float(gap.norm() / expected.norm())
                worst = max(worst, change)
                largest = max(largest, scale if change > 1e-3 and scale < 1 else 0.0)
            if worst > 1e-3:
                found.append(f"{name} by {worst:.0%} (from {largest:.0e} down)")
        return Finding(not found, counted(found, len(_SCALED), "change with the scale"))

    return Row(
        "the method is the same for small and for large gradients",
        f"J and s J for s from 1e-12 to 1e12, J = {_CONFLICT}: the direction over s, of "
        f"{listed(_SCALED)}",
        changes(theirs(torch.float64)),
        changes(ours()),
    )


def half_precision() -> Row:
    """Row 6."""
    jacobian = torch.randn(_OBJECTIVES, 10, generator=torch.Generator().manual_seed(0))

    def raising(makers_of: Callable[[torch.dtype], dict[str, Callable[[], Any]]]) -> Finding:
        found = set()
        for dtype in (torch.bfloat16, torch.float16):
            for name, make in makers_of(dtype).items():
                answer = attempt(_answer, make, jacobian.to(dtype))
                if answer.error is not None or answer.value.dtype != dtype:
                    found.add(name)
        what = "raise or change the dtype"
        return Finding(not found, counted(sorted(found), len(theirs()), what))

    return Row(
        "bfloat16 and float16 are served, and handed back",
        f"each of {len(theirs())} aggregators on a Jacobian [3, 10] in either precision",
        raising(theirs),
        raising(ours),
    )


def degenerate() -> Row:
    """Row 7."""
    poisoned = torch.randn(_OBJECTIVES, 4, generator=torch.Generator().manual_seed(0))
    poisoned[1, 2] = float("nan")
    zero = torch.zeros(_OBJECTIVES, 4)
    one = torch.ones(1, 4)
    fixed = {"constant", "nash-mtl", "trimmed-mean"}  # their settings are for three objectives

    def failing(makers: Mapping[str, Callable[[], Any]]) -> str:
        on_zero: list[str] = []
        on_one: list[str] = []
        for name, make in makers.items():
            for matrix, bad in ((zero, on_zero), (one, on_one)):
                if matrix is one and name in fixed:
                    continue
                answer = attempt(_answer, make, matrix)
                if answer.error is not None or not bool(torch.isfinite(answer.value).all()):
                    bad.append(name)
        return (
            f"no finite direction for an all-zero J: {listed(on_zero)}; "
            f"for one objective: {listed(on_one)}"
        )

    silent, loud = [], []
    for name, make in theirs().items():
        answer = attempt(_answer, make, poisoned)
        if answer.error is None:
            silent.append(name)
        else:
            loud.append(f"{name} ({type(answer.error).__name__})")
    model = torch.nn.Linear(4, _OBJECTIVES)
    losses = model(torch.ones(4)) * torch.tensor([1.0, float("nan"), 1.0])
    refused = attempt(lambda: jd.Descent(model, "upgrad").backward(losses))
    skipped = jd.Descent(model, "upgrad", on_nonfinite="skip").backward(losses)
    untouched = all(p.grad is None for p in model.parameters())
    said_by_ours = failing(ours())
    said_by_theirs = failing(theirs())
    good = "for an all-zero J: none; for one objective: none"
    return Row(
        "NaN is named with its objective and step, or skipped; all-zero and one-row J work",
        "a Jacobian [3, 4] with one NaN, an all-zero one, and one with a single row",
        Finding(
            not silent and said_by_theirs.endswith(good),
            f"on NaN {len(silent)} answer without a word and {len(loud)} raise "
            f"({listed(loud)}); {said_by_theirs}",
        ),
        Finding(
            isinstance(refused.error, jd.NonFiniteError)
            and "objective '1'" in str(refused.error)
            and skipped.skipped
            and untouched
            and said_by_ours.endswith(good),
            f"{refused}; with 'skip' Step.skipped is {skipped.skipped} and .grad is "
            f"{'untouched' if untouched else 'changed'}; {said_by_ours}",
        ),
    )


def failing_solvers() -> Row:
    """Row 8."""
    jacobian = torch.randn(_OBJECTIVES, 10, generator=torch.Generator().manual_seed(0)).double()

    def nothing(*_: Any, **__: Any) -> None:
        return None

    def fail_cvxpy(*_: Any, **__: Any) -> None:
        raise cvxpy.error.SolverError("Solver failed")

    def fail_lapack(*_: Any, **__: Any) -> None:
        raise np.linalg.LinAlgError("Eigenvalues did not converge")

    def fail_scipy(*_: Any, **__: Any) -> None:
        raise RuntimeError("Maximum number of iterations reached.")

    def answers(makers: Mapping[str, Callable[[], Any]]) -> dict[str, Attempt]:
        return {name: attempt(_answer, makers[name], jacobian) for name in _SOLVING}

    right, own_right = answers(theirs(torch.float64)), answers(ours())
    with (
        mock.patch.object(peer_projection, "solve_qp", nothing),
        mock.patch.object(cvxpy.Problem, "solve", fail_cvxpy),
    ):
        found = answers(theirs(torch.float64))
    with (
        mock.patch.object(np.linalg, "eigh", fail_lapack),
        mock.patch.object(np.linalg, "solve", fail_lapack),
        mock.patch.object(np.linalg, "cholesky", fail_lapack),
        mock.patch.object(scipy.optimize, "nnls", fail_scipy),
    ):
        own = answers(ours())
    return Row(
        "a solver's failure is one kind of error, with method, m and condition number",
        "the solver beneath upgrad, cagrad and nash-mtl made to fail: qpsolvers gives None and "
        "cvxpy raises in torchjd, LAPACK and scipy raise in ours",
        _of_failures(found, right),
        _of_failures(own, own_right),
    )


def _of_failures(found: Mapping[str, Attempt], right: Mapping[str, Attempt]) -> Finding:
    """Kept by an error that names the method and its problem, or by the right answer."""
    kept, words = [], []
    for name, answer in found.items():
        if answer.error is None:
            off = relative_error(answer.value, right[name].value)
            kept.append(off < 1e-6)
            wrong = f"a direction that is off by {off:.1%}, and no word"
            words.append(f"{name}: {'the right direction all the same' if kept[-1] else wrong}")
        else:
            text = str(answer.error)
            kept.append(name in text and "m = " in text and "condition number" in text)
            words.append(f"{name}: {said(answer.error)}")
    return Finding(all(kept), "; ".join(words))
