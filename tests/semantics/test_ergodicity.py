"""Kernels that never find a part of the target, or go round in circles, fail."""

from __future__ import annotations

import importlib
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import BudgetError
from pushforward.inference.kernels import cycle, gibbs, single_site
from pushforward.inference.kernels.traces import points_of
from pushforward.ppl import Program, draw, factor, program, sample
from pushforward.semantics import check

F64 = torch.float64


def kernel_of(rows: Tensor) -> Program:
    return Program(lambda state: draw(dist.Categorical(rows[state])))


def target_of(weights: Tensor) -> Program:
    return Program(lambda: draw(dist.Categorical(weights)))


def is_primitive(rows: Tensor) -> bool:
    """Whether a power of the matrix is positive: the power n^2 - 2n + 2 decides (Wielandt 1950)."""
    n = len(rows)
    reach = torch.eye(n, dtype=torch.bool)
    for _ in range(n * n - 2 * n + 2):
        reach = (reach.double() @ (rows > 0).double()) > 0
    return bool(reach.all())


def random_rows(n: int, density: float) -> Tensor:
    rows = (torch.rand(n, n) < density) * (0.1 + torch.rand(n, n, dtype=F64))
    alone = torch.nn.functional.one_hot(torch.randint(n, (n,)), n)
    rows = torch.where(rows.sum(1, keepdim=True) > 0, rows, alone)
    return rows / rows.sum(1, keepdim=True)


def test_random_chains() -> None:
    torch.manual_seed(0)
    found = {True: 0, False: 0}
    for k in range(80):
        n = 2 + k % 4
        rows = random_rows(n, 0.15 + 0.05 * (k % 8))
        report = check.ergodic(kernel_of(rows), target_of(torch.ones(n, dtype=F64)))
        assert (report.verdict == "pass") == is_primitive(rows), (rows, report)
        found[is_primitive(rows)] += 1
    assert min(found.values()) > 15


@pytest.mark.parametrize("n", [2, 3, 4, 5, 6])
def test_a_walk_round_a_circle(n: int) -> None:
    """To either side: of period two where the circle is even."""
    eye = torch.eye(n, dtype=F64)
    rows = (eye.roll(1, 1) + eye.roll(-1, 1)) / 2
    report = check.ergodic(kernel_of(rows), target_of(torch.ones(n, dtype=F64)))
    assert (report.verdict == "pass") == (n % 2 == 1)
    if n % 2 == 0:
        assert report.deviation == 0.5
        assert "a multiple of 2 steps" in report.counterexample
    one_way = check.ergodic(kernel_of(eye.roll(1, 1)), target_of(torch.ones(n, dtype=F64)))
    assert f"a multiple of {n} steps" in one_way.counterexample


def test_what_is_never_reached() -> None:
    weights = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=F64)
    stays = check.ergodic(Program(lambda state: state), target_of(weights))
    assert stays.verdict == "fail"
    assert abs(stays.deviation - 0.9) < 1e-12  # all but the state of mass 1
    halves = torch.tensor([[1.0, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]], dtype=F64) / 2
    report = check.ergodic(kernel_of(halves), target_of(weights))
    assert abs(report.deviation - 0.7) < 1e-12
    assert "from 0 there is no way to 2" in report.counterexample


def test_states_outside_of_the_target_are_passed_through() -> None:
    """Two states of the target, which are reached through two others in two or three steps."""
    rows = torch.zeros(5, 5, dtype=F64)
    for i, k in ((0, 2), (2, 1), (1, 3), (3, 4), (4, 0)):
        rows[i, k] = 1.0
    weights = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0], dtype=F64)
    assert "5 steps" in check.ergodic(kernel_of(rows), target_of(weights)).counterexample
    rows[3] = torch.tensor([0.5, 0.0, 0.0, 0.0, 0.5], dtype=F64)
    check.ergodic(kernel_of(rows), target_of(weights)).require()


@program
def pair() -> None:
    """Two coins that never differ: each alone cannot be turned."""
    a = sample("a", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
    b = sample("b", dist.Bernoulli(torch.tensor(0.5, dtype=F64)))
    factor("same", torch.where(a == b, 0.0, -torch.inf))


def test_kernels_of_the_library() -> None:
    """Gibbs sampling keeps this target, and never leaves where it is: only this check sees it."""
    for kernel in (cycle(gibbs("a"), gibbs("b")), single_site()):
        check.invariant(kernel.on(pair), points_of(pair)).require()
        report = check.ergodic(kernel.on(pair), points_of(pair))
        assert report.verdict == "fail"
        assert report.deviation == 0.5
    check.ergodic(gibbs(["a", "b"]).on(pair), points_of(pair)).require()


def test_a_way_out_of_the_target() -> None:
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.4, 0.1], [0.0, 0.0, 1.0]], dtype=F64)
    report = check.ergodic(kernel_of(rows), target_of(torch.tensor([1.0, 1.0, 0.0], dtype=F64)))
    assert report.deviation == 1.0
    assert "from 2 there is no way to 0" in report.counterexample


def test_a_kernel_that_breaks_fails_with_its_reason() -> None:
    def broken(state: Tensor) -> Any:
        if int(state) == 1:
            raise ValueError("no step from here")
        return 1 - state

    report = check.ergodic(Program(broken), target_of(torch.ones(2, dtype=F64)))
    assert report.verdict == "fail"
    assert "no step from here" in report.counterexample


def test_too_many_states(monkeypatch: pytest.MonkeyPatch) -> None:
    module = importlib.import_module("pushforward.semantics.checks.ergodicity")
    monkeypatch.setattr(module, "STATES", 50)
    with pytest.raises(BudgetError, match="more than 50 states"):
        check.ergodic(Program(lambda state: state + 1), target_of(torch.ones(2, dtype=F64)))
