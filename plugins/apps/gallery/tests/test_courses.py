"""The courses are those of the methods, on problems whose optima are known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import jdframework as jd
from jdframework.bases import GramianWeighting

from jd_plugin_gallery.courses import course
from jd_plugin_gallery.problems import PROBLEMS, Problem
from jd_plugin_report.contestants import Contestant, contestants

BY_NAME = {problem.name: problem for problem in PROBLEMS}


def contestant(name: str, **settings: object) -> Contestant:
    (found,) = contestants([name], {name: settings})
    return found


def distance_from_the_pareto_set(problem: Problem, point: Tensor) -> float:
    return float((problem.pareto_set - point).norm(dim=1).min())


def gradients(problem: Problem, point: Tensor) -> Tensor:
    jacobian: Tensor = torch.func.jacrev(problem.losses)(point)
    return jacobian


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_drawn_pareto_set_is_where_the_gradients_cancel(problem: Problem) -> None:
    shortest = jd.aggregator("mgda")
    for point in problem.pareto_set[:: max(1, len(problem.pareto_set) // 9)]:
        assert float(shortest(gradients(problem, point)).norm()) < 1e-6


def test_the_element_wise_objectives_never_conflict_and_the_forms_do() -> None:
    for point in torch.randn(20, 2, dtype=torch.float64):
        first, second = gradients(BY_NAME["element-wise"], point)
        assert float(first @ second) == 0
    middle = BY_NAME["quadratic-forms"].pareto_set[50]
    first, second = gradients(BY_NAME["quadratic-forms"], middle)
    assert float(torch.nn.functional.cosine_similarity(first, second, dim=0)) == pytest.approx(-1)


@pytest.mark.parametrize("name", ["upgrad", "mgda", "dwa", "imtl-l", "modo", "sdmgrad"])
def test_a_course_on_the_forms_ends_near_the_pareto_set(name: str) -> None:
    problem = BY_NAME["quadratic-forms"]
    found = course(contestant(name), problem, problem.starts[1])
    assert torch.equal(found.points[0], torch.tensor(problem.starts[1], dtype=torch.float64))
    assert distance_from_the_pareto_set(problem, found.points[-1]) < 0.05
    torch.testing.assert_close(found.values, problem.losses(found.points))


def test_mgda_stops_where_one_objective_is_at_its_best_and_upgrad_does_not() -> None:
    problem = BY_NAME["element-wise"]
    stopped = course(contestant("mgda"), problem, (3.0, -2.0)).points[-1]
    arrived = course(contestant("upgrad"), problem, (3.0, -2.0)).points[-1]
    assert abs(float(stopped[0])) > 1
    assert abs(float(stopped[1])) < 1e-3
    assert float(arrived.norm()) < 0.01


def test_famo_is_told_the_losses_after_each_update() -> None:
    problem = BY_NAME["quadratic-forms"]
    moving = course(contestant("famo"), problem, problem.starts[0])
    fixed = course(contestant("famo", lr=0.0), problem, problem.starts[0])
    assert float((moving.points[-1] - fixed.points[-1]).norm()) > 0.01


def test_epochs_end_so_that_dwa_departs_from_the_sum() -> None:
    problem = BY_NAME["quadratic-forms"]
    dwa = course(contestant("dwa"), problem, problem.starts[0]).points
    plain = course(contestant("sum"), problem, problem.starts[0]).points
    torch.testing.assert_close(dwa[:20], plain[:20])
    assert float((dwa - plain).norm(dim=1).max()) > 0.001


def test_random_methods_give_the_same_course_again_and_leave_the_generator_alone() -> None:
    problem = BY_NAME["quadratic-forms"]
    before = torch.get_rng_state()
    first, second = (course(contestant("random"), problem, (1.0, 1.0)).points for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_step_that_fails_names_the_method() -> None:
    class Failing(GramianWeighting):
        """Finds no weights."""

        def forward(self, gramian: Tensor, /) -> Tensor:
            raise jd.SolverError("no weights were found")

    jd.register("weighting", "failing")(Failing)
    try:
        with pytest.raises(
            jd.JDError, match="^failing fails on 'element-wise': .*no weights were found"
        ):
            course(contestant("failing"), PROBLEMS[0], (1.0, 1.0))
    finally:
        jd.unregister("weighting", "failing")
