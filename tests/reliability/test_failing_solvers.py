"""A solver that fails is told as one kind of error, with the method and its problem's size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch

import jdframework as jd
from jdframework import linalg
from jdframework.bases import GramianWeighting
from jdframework.protocols.names import Kind
from jdframework.testing import FAMILIES

from .subjects import KINDS, M, method_of

METHODS = [(kind, name) for kind in KINDS[:2] for name in jd.available(kind)]
OF_NUMPY = ("cholesky", "eigh", "eigvalsh", "inv", "lstsq", "qr", "solve", "svd")


@pytest.fixture
def lapack_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is asked of it, in numpy, in scipy and in torch."""

    def fail(*_: Any, **__: Any) -> Any:
        raise np.linalg.LinAlgError("LAPACK found nothing")

    def fail_in_torch(*_: Any, **__: Any) -> Any:
        raise torch.linalg.LinAlgError("LAPACK found nothing")

    def fail_in_scipy(*_: Any, **__: Any) -> Any:
        raise RuntimeError("too many iterations")

    for name in OF_NUMPY:
        monkeypatch.setattr(np.linalg, name, fail)
        if hasattr(torch.linalg, name):
            monkeypatch.setattr(torch.linalg, name, fail_in_torch)
        if hasattr(scipy.linalg, name):
            monkeypatch.setattr(scipy.linalg, name, fail)
    monkeypatch.setattr(scipy.optimize, "nnls", fail_in_scipy)


@pytest.mark.usefixtures("lapack_fails")
@pytest.mark.parametrize("family", ["random", "opposite rows", "rank-deficient"])
@pytest.mark.parametrize(("kind", "name"), METHODS)
def test_every_method_answers_or_says_what_failed(kind: Kind, name: str, family: str) -> None:
    method, jacobian = method_of(kind, name), FAMILIES[family](M)
    statistic = jacobian if "jacobian" in method.needs or kind == "aggregator" else None
    extra = {"losses": torch.ones(M, dtype=torch.float64)} if "losses" in method.needs else {}
    said = None
    try:
        given = linalg.gramian([jacobian]) if statistic is None else statistic
        answer = method(given, **extra)
    except jd.SolverError as error:
        said = str(error)
    if said is None:
        assert torch.isfinite(answer).all()
    else:
        assert said.startswith(method.name)
        assert f"m = {M}" in said or f"[{M}," in said


def test_what_failed_reaches_the_user_of_descent(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck(GramianWeighting):
        def forward(self, gramian: torch.Tensor, /) -> torch.Tensor:
            raise np.linalg.LinAlgError("Eigenvalues did not converge")

    model = torch.nn.Linear(2, 2, bias=False)
    message = r"^stuck: Eigenvalues did not converge \(m = 2, condition number 1\.0e\+00\)$"
    with pytest.raises(jd.SolverError, match=message) as caught:
        jd.Descent(model, Stuck()).backward(model(torch.ones(2)))
    assert isinstance(caught.value.__cause__, np.linalg.LinAlgError)
    assert model.weight.grad is None


def test_other_errors_of_an_author_pass_unchanged() -> None:
    class Wrong(GramianWeighting):
        def forward(self, gramian: torch.Tensor, /) -> torch.Tensor:
            raise KeyError("a mistake")

    with pytest.raises(KeyError, match="a mistake"):
        Wrong()(torch.eye(2))
