"""Angles: chains go all the way round, and the measure is that of the angle."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.special import i0e, i1e
from support.sizes import quick
from torch import Tensor

from pushforward import dist, observe, plate, sample
from pushforward.errors import SupportError
from pushforward.inference import MCMC, nuts
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")


def run(p: object, compiled: bool) -> Tensor:
    fit = MCMC(nuts(6), 4, 500, 300, compiled=compiled, progress=False).run(p)  # type: ignore[arg-type]
    assert fit["a"].abs().max() <= math.pi
    return fit["a"]


def straddling() -> None:
    a = sample("a", dist.VonMises(math.pi, 4.0))
    with plate("n", 2):
        observe("y", dist.VonMises(a, 3.0), torch.tensor([3.0, -3.0]))


def bimodal() -> None:
    """A mixture of two bumps left and right of the cut."""
    law = dist.VonMises(torch.tensor([math.pi - 0.5, 0.5 - math.pi]), 8.0)
    sample("a", dist.MixtureSameFamily(dist.Categorical(torch.tensor([0.5, 0.5])), law))


def cut() -> None:
    """A datum that tells 3 from -3: the posterior jumps at the cut."""
    a = sample("a", dist.VonMises(math.pi, 1.0))
    observe("y", dist.Normal(a, 2.0), torch.tensor(3.0))


@pytest.mark.parametrize("compiled", [True, False])
def test_each_chain_finds_both_sides_of_the_cut(compiled: bool) -> None:
    a = run(straddling, compiled)
    share = (a > 0).double().mean(1)
    assert ((share - 0.5).abs() < 5 * 0.5 / math.sqrt(150)).all()  # 150: an ESS that a chain has
    kappa = 4 + 6 * math.cos(math.pi - 3)  # the posterior is VonMises(pi, kappa), by hand
    mean = i1e(kappa) / i0e(kappa)
    variance = 1 - mean / kappa - mean**2  # of cos(a - pi)
    found = (a - math.pi).cos().mean()
    assert abs(float(found) - mean) < 5 * math.sqrt(variance / 600)


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_a_mixture_of_angles_is_an_angle(compiled: bool) -> None:
    share = (run(bimodal, compiled) > 0).double().mean(1)
    assert ((share - 0.5).abs() < 5 * 0.5 / math.sqrt(100)).all()


@pytest.mark.parametrize("compiled", quick(1, [True, False]))
def test_a_density_that_jumps_at_the_cut_is_sampled(compiled: bool) -> None:
    grid = torch.linspace(-math.pi, math.pi, 20_001)
    weight = torch.softmax((grid - math.pi).cos() - (grid - 3.0).square() / 8, 0)
    a = run(cut, compiled)
    for f in (torch.sin, torch.cos, lambda x: (x > 0).double()):
        exact = float((weight * f(grid)).sum())
        spread = float((weight * f(grid).square()).sum() - exact**2) ** 0.5
        assert abs(float(f(a).mean()) - exact) < 5 * spread / math.sqrt(600)


@pytest.mark.parametrize("law", [dist.VonMises(1.0, 2.0), dist.VonMises(-3.0, 40.0)])
def test_the_plane_carries_the_law_of_the_angle(law: dist.VonMises) -> None:
    """Summed over the plane the density is one, and over a sector the mass of its angles."""
    density = LogDensity(lambda: sample("a", law), turning=True)
    line = torch.arange(-2.4, 2.4, 0.01) + 0.005
    points = torch.cartesian_prod(line, line)
    mass = torch.func.vmap(density)(points).exp() * 0.01**2
    angles = torch.atan2(points[:, 1], points[:, 0])
    grid = torch.linspace(-math.pi, math.pi, 200_001)
    each = law.log_prob(grid).exp() * float(grid[1] - grid[0])
    assert math.isclose(float(mass.sum()), 1.0, abs_tol=1e-5)
    for low, high in ((0.0, math.pi), (-math.pi, -2.5), (0.5, 1.0)):
        inside = float(mass[(angles > low) & (angles < high)].sum())
        exact = float(each[(grid > low) & (grid < high)].sum())
        assert math.isclose(inside, exact, abs_tol=2e-3)


def test_angles_have_points_of_the_plane() -> None:
    law = dist.VonMises(torch.zeros(3), 1.0).to_event(1)
    layout = LogDensity(lambda: sample("a", law), turning=True).layout
    assert layout.size == 6
    a = torch.tensor([0.0, 3.1, -math.pi])
    again = layout.unpack(3.0 * layout.pack({"a": a}))[0]["a"]  # at any distance
    assert torch.allclose(again, a, atol=1e-12)
    with pytest.raises(SupportError, match="not in the interior"):
        layout.pack({"a": torch.tensor([0.0, 4.0, 1.0])})
