"""Compiled densities: triangular matrices and selections by masks, which stay in machine code."""

from __future__ import annotations

import math

import pytest
import torch

from pushforward import dist, observe, plate, sample
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture

pytestmark = pytest.mark.usefixtures("double")


def varying_slopes() -> None:
    factor = sample("factor", dist.LKJCholesky(3, 2.0))
    scales = sample("scales", dist.HalfNormal(1.0).expand([3]).to_event(1))
    with plate("group", 2):
        law = dist.MultivariateNormal(torch.zeros(3), scale_tril=scales[:, None] * factor)
        slopes = sample("slopes", law)
        observe("y", dist.Normal(slopes.sum(-1), 1.0), torch.ones(2))


HOLES = torch.tensor([[True, False], [False, True], [True, True]])


def selected() -> None:
    w = sample("w", dist.Normal(torch.zeros(3, 2), 1.0).to_event(2))
    observe("y", dist.Normal(w[HOLES], 2.0).to_event(1), torch.arange(4.0))


def test_a_correlation_matrix_compiles_and_has_the_density_of_pyro() -> None:
    density = LogDensity(varying_slopes)
    u = torch.linspace(-0.8, 0.7, 2 * density.layout.size).reshape(2, -1)
    value, gradient = Potential(density, u)(u)  # a graph that does not compile warns
    traced = Potential(density, u, compiled=False)(u)
    assert torch.allclose(value, traced[0], rtol=1e-9)
    assert torch.allclose(gradient, traced[1], rtol=1e-9)
    for i in range(2):
        at, log_det = density.layout.unpack(u[i])
        law = dist.MultivariateNormal(
            torch.zeros(3), scale_tril=at["scales"][:, None] * at["factor"]
        )
        by_pyro = (
            dist.LKJCholesky(3, 2.0).log_prob(at["factor"])
            + dist.HalfNormal(1.0).log_prob(at["scales"]).sum()
            + law.log_prob(at["slopes"]).sum()
            + dist.Normal(at["slopes"].sum(-1), 1.0).log_prob(torch.ones(2)).sum()
        )
        assert math.isclose(float(value[i]), float(by_pyro + log_det), rel_tol=1e-9)


def test_entries_that_a_mask_selects_compile() -> None:
    density = LogDensity(selected)
    u = torch.linspace(-1.0, 1.0, 12).reshape(2, 6)
    value, gradient = Potential(density, u)(u)
    places = [0, 3, 4, 5]
    residual = (torch.arange(4.0) - u[:, places]) / 2
    constant = 10 * 0.5 * math.log(2 * math.pi) + 4 * math.log(2.0)
    by_hand = -0.5 * u.square().sum(-1) - 0.5 * residual.square().sum(-1) - constant
    assert torch.allclose(value, by_hand, rtol=1e-12)
    slope = -u.clone()
    slope[:, places] += residual / 2
    assert torch.allclose(gradient, slope, rtol=1e-12)


@pytest.mark.parametrize("p", [varying_slopes, selected])
def test_no_known_mask_is_left_among_the_indices(p: object) -> None:
    density = LogDensity(p)  # type: ignore[arg-type]
    graph = fold(capture(density, torch.zeros(2, density.layout.size)))
    for node in graph.graph.nodes:
        if str(node.target).startswith("aten.index"):
            indices = [getattr(graph, str(i.target)) for i in node.args[1] if i is not None]
            assert all(index.dtype == torch.int64 for index in indices)
