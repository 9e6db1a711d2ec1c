"""Coordinates of intervals with finite and infinite ends beside each other: torch's, one by one."""

from __future__ import annotations

import math

import pytest
import torch
from pyro.distributions import constraints
from torch.distributions import biject_to

from pushforward.ppl.types.bijections import bijection, log_abs_det

pytestmark = pytest.mark.usefixtures("double")


def test_each_element_has_the_coordinates_of_its_interval() -> None:
    inf = math.inf
    low, high = torch.tensor([-1.0, 0.5, -inf, -inf]), torch.tensor([2.0, inf, 3.0, inf])
    mixed = bijection(constraints.interval(low, high))
    parts = [
        constraints.interval(-1.0, 2.0),
        constraints.greater_than(0.5),
        constraints.less_than(3.0),
        constraints.real,
    ]
    u = torch.linspace(-2.0, 2.0, 5)[:, None].expand(5, 4)
    x = mixed(u)
    torch.testing.assert_close(mixed.inv(x), u)
    for k, part in enumerate(parts):
        own = biject_to(part)
        y = own(u[:, k])
        torch.testing.assert_close(x[:, k], y)
        found, exact = log_abs_det(mixed, u, x)[:, k], log_abs_det(own, u[:, k], y)
        torch.testing.assert_close(found, exact)
    assert bool(mixed.codomain.check(x).all()) and not bool(mixed.codomain.check(x - 5).all())
    slope = torch.func.grad(lambda v: log_abs_det(mixed, v, mixed(v)).sum())(u)
    assert bool(slope.isfinite().all())
