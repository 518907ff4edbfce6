"""What the weights of a Gramian cost, and how near the optimum they are, against torchjd.

Two kinds of Jacobian: mild ones have 1000 columns and a common direction, hard ones half as many
columns as rows. The residual is the method's own optimality condition, the worst over the inputs:
UPGrad's KKT residual, MGDA's duality gap, the inequality of IMTL-G's projections, by how much
CAGrad misses the best of both, the errors of Nash-MTL's and FairGrad's equations (where they have a
solution); PCGrad and GradVac have none. ``--dtype float32`` gives both Gramians of single
precision, as most training does: where gradients are dependent, its rounding makes the matrix
indefinite, and residuals end near 1e-6. torchjd is measured at its own settings throughout; in the
lines "UPGrad, exact" its residual is that of the problem without the ridge that it adds. Its
Nash-MTL is given a Jacobian, as it wants, and starts from its last solution. What takes a second or
more a call is measured in fewer rounds, and a torchjd that is predicted to take longer than can be
waited for is left out; the row's note says so. Each method and kind has a process of its own, in
which the two take turns.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor
from torchjd.aggregation import (
    CAGradWeighting,
    FairGradWeighting,
    GradVacWeighting,
    IMTLGWeighting,
    MGDAWeighting,
    NashMTL,
    PCGradWeighting,
    UPGradWeighting,
)
from torchjd.linalg import QuadprogProjector

import jdframework as jd
from jdframework.linalg import cosines, project_on_dual_cone
from jdframework.linalg.dual_cone import cone_residual
from jdframework.linalg.min_norm import duality_gap

from jd_plugin_bench.timing import Ratio, Timing, measured, ratio, summary

Weigh = Callable[[Tensor], Tensor]
REG_EPS: Final = 1e-4
"""What torchjd adds to the diagonal, relative to the trace."""
INPUTS: Final = {2: 9, 8: 5, 16: 5, 32: 5, 64: 3, 128: 2, 256: 1}
"""How many Gramians of each size."""
QUICK: Final = {2: 3, 16: 3, 64: 2}
ROUNDS: Final = 7
SLOW_ROUNDS: Final = 3
_SLOW: Final = 1.0
"""Seconds of a call from which on there are fewer rounds."""
_PATIENCE: Final = 15.0
"""Seconds of a call that is not waited for."""
_MEASUREMENT: Final = 2e-3
"""Seconds that one measurement takes at least, however short one call is."""


@dataclass(frozen=True)
class Duel:
    """One method of ours against torchjd's, and the measure of how well it is solved."""

    ours: Weigh
    theirs: Weigh
    residual_of_ours: Callable[[Tensor], float]
    """Zero at the optimum, NaN where there is none."""
    residual_of_theirs: Callable[[Tensor], float]
    wanted: Callable[[int], float]
    """How many times as fast ours is to be for ``m`` objectives; 0 where no figure is set."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__, largest=256, dtypes=("float64", "float32"))
    inputs = QUICK if given.quick else INPUTS
    sizes = {m: count for m, count in inputs.items() if m <= given.largest}
    duels = [(name, kind) for name in _duels() for kind in ("mild", "hard")]
    rows: list[Mapping[str, Any]] = []
    with progress(len(duels)) as advance:
        for name, kind in duels:
            advance(f"{name}, {kind}")
            with ProcessPoolExecutor(1, get_context("spawn")) as process:
                rows += process.submit(
                    _fought, name, kind, sizes, given.device, given.dtype
                ).result()
    show("The weights of a Gramian, ms", [_readable(row) for row in rows])
    name = "weightings" if given.dtype == "float64" else f"weightings-{given.dtype}"
    print(f"wrote {write(name, given, rows)}")


def _fought(
    name: str, kind: str, sizes: Mapping[int, int], device: str, dtype: str
) -> list[Mapping[str, Any]]:
    """A duel's rows; in a process of its own, or it would pay for what those before it left."""
    warnings.simplefilter("ignore")  # torchjd's solver remarks on its own settings
    duel = _duels()[name]
    rows: list[Mapping[str, Any]] = []
    theirs: dict[int, float] = {}
    for m, inputs in sizes.items():
        figures = _measured(duel, kind, m, inputs, device, dtype, _predicted(theirs, m))
        if figures["torchjd"] is not None:
            theirs[m] = figures["torchjd"].median
        rows.append({"method": name, "J": kind, "m": m} | figures)
    return rows


def _predicted(seconds: Mapping[int, float], m: int) -> float:
    """How long a call takes, if it goes on as between the last two sizes."""
    if len(seconds) < 2:
        return 0.0
    (before, earlier), (last, latest) = list(seconds.items())[-2:]
    exponent = math.log(latest / earlier) / math.log(last / before)
    return float(latest * (m / last) ** exponent)


def _duels() -> dict[str, Duel]:
    like_theirs = jd.weighting("upgrad", reg_eps=REG_EPS, norm_eps=1e-4)
    return {
        "UPGrad, reg_eps=1e-4": _upgrad(like_theirs, REG_EPS),
        "UPGrad, exact": _upgrad(jd.weighting("upgrad"), 0.0),
        "MGDA": _duel(jd.weighting("mgda"), MGDAWeighting(), _duality_gap, lambda m: 1.0),
        "IMTL-G": _duel(jd.weighting("imtl-g"), IMTLGWeighting(), _inequality, lambda m: 0.0),
        "CAGrad, c=0.5": _duel(
            jd.weighting("cagrad", c=0.5),
            CAGradWeighting(c=0.5),
            _worst_gain,
            lambda m: 10.0 if m <= 32 else 0.0,
        ),
        "Nash-MTL": _duel(
            jd.weighting("nash-mtl", max_norm=0.0), _nash, _nash_error, lambda m: 20.0
        ),
        "FairGrad, alpha=2": _duel(
            jd.weighting("fairgrad", alpha=2.0),
            FairGradWeighting(alpha=2.0),
            _fair_error,
            lambda m: 5.0,
        ),
        "PCGrad": _duel(
            jd.weighting("pcgrad"), PCGradWeighting(), _none, lambda m: 10.0 if m >= 32 else 0.0
        ),
        "GradVac": _duel(
            _per_size(lambda: jd.weighting("gradvac")),
            _per_size(GradVacWeighting),
            _none,
            lambda m: 10.0 if m >= 32 else 0.0,
        ),
    }


def _duel(
    ours: Weigh,
    theirs: Any,
    residual: Callable[[Tensor, Tensor], float],
    wanted: Callable[[int], float],
) -> Duel:
    """One whose residual is that of the weights."""
    return Duel(
        ours,
        theirs,
        lambda gramian: residual(gramian.double(), ours(gramian).double()),
        lambda gramian: residual(gramian.double(), theirs(gramian).double()),
        wanted,
    )


def _upgrad(ours: Weigh, ridge: float) -> Duel:
    """Its residual is that of the projections, of the Gramian with this ridge."""
    theirs: Any = UPGradWeighting()
    return Duel(
        ours,
        theirs,
        lambda gramian: _cone_residual(gramian, ridge, _our_projections),
        lambda gramian: _cone_residual(gramian, ridge, _their_projections),
        _wanted_of_upgrad,
    )


def _per_size(make: Callable[[], Any]) -> Weigh:
    """A method that remembers as many objectives as it has seen."""
    made: dict[int, Any] = {}

    def weigh(gramian: Tensor) -> Tensor:
        if len(gramian) not in made:
            made[len(gramian)] = make()
        weights: Tensor = made[len(gramian)](gramian)
        return weights

    return weigh


@cache
def _nash_of(m: int) -> Any:
    return NashMTL(n_tasks=m, max_norm=0.0).weighting


def _nash(gramian: Tensor) -> Tensor:
    """torchjd's, by a Jacobian of that Gramian."""
    weights: Tensor = _nash_of(len(gramian))(_factor(gramian))
    return weights


_factors: Final[dict[int, tuple[Tensor, Tensor]]] = {}
"""By the Gramian's identity: a Jacobian with it, and itself, so that the identity stays its own."""


def _factor(gramian: Tensor) -> Tensor:
    if id(gramian) not in _factors:
        values, vectors = torch.linalg.eigh(gramian)
        _factors[id(gramian)] = vectors * values.clamp(min=0.0).sqrt(), gramian
    return _factors[id(gramian)][0]


def _worst_gain(gramian: Tensor, weights: Tensor) -> float:
    """By how much the worst inner product misses CAGrad's bound, relative to the mean's square."""
    m = len(gramian)
    mean, square = gramian.mean(0), gramian.mean()
    step = weights - 1 / m
    length = (step @ gramian @ step).clamp(min=0.0).sqrt()
    if length == 0:
        return float("nan")
    best = step.clamp(min=0.0) / step.clamp(min=0.0).sum()
    bound = mean @ best + 0.5 * square.sqrt() * (best @ gramian @ best).clamp(min=0.0).sqrt()
    reached = (mean + 0.5 * square.sqrt() / length * (gramian @ step)).min()
    return float((bound - reached).abs() / square)


def _nash_error(gramian: Tensor, weights: Tensor) -> float:
    return _equations(gramian, weights, 1.0)


def _fair_error(gramian: Tensor, weights: Tensor) -> float:
    return _equations(gramian, weights, 2.0)


def _equations(gramian: Tensor, weights: Tensor, alpha: float) -> float:
    """The error of ``G x = x^(-1/alpha)``, where no convex combination of the rows is zero."""
    shortest = jd.weighting("mgda")(gramian)
    if shortest @ gramian @ shortest <= 1e-9 * gramian.diagonal().min():
        return float("nan")
    return float((gramian @ weights * weights.clamp(min=0.0) ** (1 / alpha) - 1).abs().max())


def _none(gramian: Tensor, weights: Tensor) -> float:
    return float("nan")


def _wanted_of_upgrad(m: int) -> float:
    if m <= 16:
        return 1 / 1.2
    return {64: 2.5, 128: 10.0}.get(m, 0.0)


def _measured(
    duel: Duel, kind: str, m: int, inputs: int, device: str, dtype: str, predicted: float
) -> dict[str, Any]:
    contestants = {"ours": duel.ours, "theirs": duel.theirs}
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    residuals: dict[str, list[float]] = {"ours": [], "theirs": []}
    for seed in range(inputs):
        jacobian = _jacobian(kind, m, seed).to(getattr(torch, dtype))
        gramian = (jacobian @ jacobian.T).to(device)
        residuals["ours"].append(duel.residual_of_ours(gramian))
        if predicted <= _PATIENCE:
            start = time.perf_counter()
            residuals["theirs"].append(duel.residual_of_theirs(gramian))
            predicted = time.perf_counter() - start
        if predicted > _PATIENCE:
            contestants.pop("theirs", None)
        slow = _SLOW < predicted <= _PATIENCE
        for name, times in _timed(contestants, gramian, slow).items():
            seconds[name] += times
    alone = "theirs" not in contestants
    return {
        "torchjd": None if alone else summary(seconds["theirs"]),
        "ours": summary(seconds["ours"]),
        "times as fast": None if alone else ratio(seconds["theirs"], seconds["ours"]),
        "wanted": duel.wanted(m),
        "residual of torchjd": _worst(residuals["theirs"]),
        "residual of ours": _worst(residuals["ours"]),
        "note": _note(len(seconds["ours"]) // inputs, predicted if alone else None),
    }


def _note(rounds: int, torchjd: float | None) -> str:
    if torchjd is not None:
        return f"torchjd left out: about {torchjd:.0f} s a call"
    return f"{rounds} rounds" if rounds < ROUNDS else ""


def _timed(contestants: Mapping[str, Weigh], gramian: Tensor, slow: bool) -> dict[str, list[float]]:
    """The seconds of each call, round by round, in turn."""
    repeats = {name: 1 if slow else _repeats(weigh, gramian) for name, weigh in contestants.items()}
    runs = {
        name: partial(_run, weigh, gramian, repeats[name]) for name, weigh in contestants.items()
    }
    found = measured(runs, SLOW_ROUNDS if slow else ROUNDS, warm_up=0)
    return {name: [time / repeats[name] for time in times] for name, times in found.items()}


def _worst(residuals: list[float]) -> float | None:
    """None if the condition could be checked on no input."""
    return max((found for found in residuals if not math.isnan(found)), default=None)


def _jacobian(kind: str, m: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    if kind == "mild":
        return torch.randn(m, 1000, generator=generator, dtype=torch.float64) + 0.1
    return torch.randn(m, max(1, m // 2), generator=generator, dtype=torch.float64)


def _repeats(weigh: Weigh, gramian: Tensor) -> int:
    """How many calls make a measurement; they warm up what is measured, too."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        weigh(gramian)
        times.append(time.perf_counter() - start)
    return max(1, round(_MEASUREMENT / min(times)))


def _run(weigh: Weigh, gramian: Tensor, repeats: int) -> None:
    for _ in range(repeats):
        weigh(gramian)


Project = Callable[[Tensor, Tensor, Tensor], Tensor]


def _cone_residual(gramian: Tensor, ridge: float, project: Project) -> float:
    """The KKT residual of the projections, for the Gramian with that ridge."""
    solved = gramian / gramian.trace() + ridge * torch.eye(len(gramian)).to(gramian)
    vectors = torch.eye(len(gramian)).to(gramian) / len(gramian)
    found = project(gramian, solved, vectors)
    solved, vectors, found = (each.double().cpu() for each in (solved, vectors, found))
    return cone_residual(solved.numpy(), vectors.numpy(), found.numpy())


def _our_projections(gramian: Tensor, solved: Tensor, vectors: Tensor) -> Tensor:
    return project_on_dual_cone(solved, vectors)


def _their_projections(gramian: Tensor, solved: Tensor, vectors: Tensor) -> Tensor:
    """They add their ridge themselves."""
    given: Any = gramian
    projections: Tensor = QuadprogProjector(reg_eps=REG_EPS)(vectors, given)
    return projections


def _duality_gap(gramian: Tensor, weights: Tensor) -> float:
    return duality_gap(gramian.cpu().numpy(), weights.cpu().numpy())


def _inequality(gramian: Tensor, weights: Tensor) -> float:
    """How far the projections on the unit gradients are from as equal as their span allows."""
    unit = cosines(gramian)
    if not weights.any():  # right where the unit gradients balance out
        return float(unit.sum().clamp(min=0.0))
    found = unit @ (weights * gramian.diagonal().sqrt())
    scale = found.sum() / found.square().sum()
    return float((unit @ (scale * found - 1)).abs().max())


def _readable(row: Mapping[str, Any]) -> dict[str, str]:
    return {name: _text(name, value) for name, value in row.items()} | {
        "wanted": f"{row['wanted']:.2g}" if row["wanted"] else ""
    }


def _text(name: str, value: Any) -> str:
    if isinstance(value, Timing):
        return f"{1e3 * value.median:.3g}"
    if isinstance(value, Ratio):
        return str(value)
    if value is None:
        return ""
    return f"{value:.0e}" if name.startswith("residual") else str(value)


if __name__ == "__main__":
    main()
