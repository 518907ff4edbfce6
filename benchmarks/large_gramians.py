"""What the weights of many objectives cost, in products of two matrices of the Gramian's size.

One thread and its processor time, so that what else the machine does counts little; a product of
two ``[m, m]`` matrices in double precision is measured beside each method. Three kinds of Jacobian:
wide ones have three times as many columns as rows and a common direction, flat ones half as many
and a common direction, hard ones half as many and none, so that all gradients may cancel out.
UPGrad's residual is the KKT residual of its projections, which are computed once more for it.
"""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final

import torch
from reporting import arguments, progress, show, write
from torch import Tensor

import jdframework as jd
from jdframework.linalg import project_on_dual_cone
from jdframework.linalg.dual_cone import cone_residual
from jdframework.linalg.min_norm import duality_gap

METHODS: Final = ("imtl-g", "aligned-mtl", "dual-proj", "mgda", "nash-mtl", "cagrad", "upgrad")
SIZES: Final = (2000, 600)
_PATIENCE: Final = 300.0
"""Seconds of a measurement that is not waited for."""


def main() -> None:
    """Measures, prints, and writes JSON."""
    given = arguments(__doc__, largest=2000, dtypes=("float64", "float32"))
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    script = "large_gramians" + ("" if given.dtype == "float64" else f"-{given.dtype}")
    rows: list[Mapping[str, Any]] = []
    sizes = [m for m in SIZES if m <= given.largest]
    cases = [
        (m, kind, name) for m in sizes for kind in ("wide", "flat", "hard") for name in METHODS
    ]
    with progress(len(cases)) as advance:
        for m, kind, name in cases:
            advance(f"{name}, {kind}, {m}")
            rows.append(
                {"method": name, "J": kind, "m": m, **_in_own_process(name, kind, m, given.dtype)}
            )
            write(script, given, rows)  # so that what was measured is kept
    show("The weights of many objectives", [{k: _text(v) for k, v in row.items()} for row in rows])
    print(f"wrote {write(script, given, rows)}")


def _in_own_process(name: str, kind: str, m: int, dtype: str) -> Mapping[str, Any]:
    """In a process of its own, which is given up after a while."""
    pool = ProcessPoolExecutor(1, get_context("spawn"))
    future = pool.submit(_measured, name, kind, m, dtype)
    try:
        return future.result(_PATIENCE)
    except TimeoutError:
        for process in list(pool._processes.values()):
            process.kill()
        return {"seconds": None, "products": None, "residual": None}
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _measured(name: str, kind: str, m: int, dtype: str) -> Mapping[str, Any]:
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    n = 3 * m if kind == "wide" else m // 2
    jacobian = torch.randn(m, n, generator=generator, dtype=torch.float64)
    jacobian = (jacobian + (0.0 if kind == "hard" else 0.1)).to(getattr(torch, dtype))
    gramian = jacobian @ jacobian.T
    weighting = jd.weighting(name, **({"max_norm": 0.0} if name == "nash-mtl" else {}))
    weighting(gramian[:40, :40])  # imports
    wide = gramian.double()
    product = min(_seconds(lambda: wide @ wide)[0] for _ in range(3))
    seconds, weights = _seconds(lambda: weighting(gramian))
    residual = _residual(name, gramian, weights)
    return {"seconds": seconds, "products": seconds / product, "residual": residual}


def _seconds(run: Any) -> tuple[float, Any]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def _residual(name: str, gramian: Tensor, weights: Tensor) -> float | None:
    wide = gramian.double().numpy()
    if name == "mgda":
        return duality_gap(wide, weights.double().numpy())
    if name == "nash-mtl" and weights.any():
        return float((gramian.double() @ weights.double() * weights.double() - 1).abs().max())
    if name == "upgrad":
        vectors = torch.eye(len(gramian)).to(gramian) / len(gramian)
        found = project_on_dual_cone(gramian, vectors)
        return cone_residual(wide, vectors.double().numpy(), found.double().numpy())
    return None


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3g}" if value == 0 or abs(math.log10(value)) < 4 else f"{value:.0e}"
    return str(value)


if __name__ == "__main__":
    main()
