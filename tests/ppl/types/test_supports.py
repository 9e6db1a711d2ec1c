"""The support of a law is where its density is positive, transformed laws included.

The class: every law whose stated support is wider than that, above all transformed laws, of which
torch states the codomain of the last transform.  Members are drawn: bases on the line, half-lines
and intervals, under one to three monotone maps.  The image is found independently, by pushing the
ends of the base through the maps in high precision.
"""

from __future__ import annotations

import math
from typing import Any

import mpmath
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from support.every_distribution import LAWS

from pushforward import dist, observe, program, sample
from pushforward.errors import DataError, UnsupportedDistributionError
from pushforward.inference import MCMC, nuts
from pushforward.ppl.distributions.densities import log_density
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.types import space_of
from pushforward.ppl.types.supports import interval_of, support_of
from pushforward.semantics import check, denote

T = dist.transforms
pytestmark = pytest.mark.usefixtures("double")

# Laws on the line with the ends of their supports.
BASES: list[tuple[Any, float, float]] = [
    (lambda: dist.Normal(0.3, 1.2), -math.inf, math.inf),
    (lambda: dist.HalfNormal(1.5), 0.0, math.inf),
    (lambda: dist.Exponential(2.0), 0.0, math.inf),
    (lambda: dist.Gamma(2.0, 1.0), 0.0, math.inf),
    (lambda: dist.LogNormal(0.0, 0.5), 0.0, math.inf),
    (lambda: dist.Beta(2.0, 3.0), 0.0, 1.0),
    (lambda: dist.Uniform(0.2, 0.7), 0.2, 0.7),
    (lambda: dist.Uniform(-2.0, 1.5), -2.0, 1.5),
    (lambda: dist.Weibull(1.0, 2.0), 0.0, math.inf),
]

# Maps with their values at an end, in mpmath; `lowest` and `highest` say where they are defined.
Map = tuple[Any, Any, float, float]


def affine(loc: float, scale: float) -> Map:
    return T.AffineTransform(loc, scale), lambda x: loc + scale * x, -math.inf, math.inf


MAPS: list[Map] = [
    (T.ExpTransform(), mpmath.exp, -math.inf, 3.0),
    (T.ExpTransform().inv, lambda x: mpmath.log(x) if x else -mpmath.inf, 0.0, math.inf),
    (T.SigmoidTransform(), lambda x: 1 / (1 + mpmath.exp(-x)), -math.inf, math.inf),
    (T.TanhTransform(), mpmath.tanh, -math.inf, math.inf),
    (T.SoftplusTransform(), lambda x: mpmath.log1p(mpmath.exp(x)), -math.inf, 50.0),
    (T.PowerTransform(torch.tensor(2.0)), lambda x: x**2, 0.0, math.inf),
    (T.PowerTransform(torch.tensor(-0.5)), lambda x: 1 / mpmath.sqrt(x) if x else mpmath.inf)
    + (0.0, math.inf),
    (T.ELUTransform(), lambda x: x if x > 0 else mpmath.expm1(x), -math.inf, math.inf),
    affine(1.0, 3.0),
    affine(-2.0, 0.5),
    affine(0.5, -1.5),
]


def value(function: Any, x: Any) -> Any:
    """A map at an end; mpmath's own limits at infinity."""
    return mpmath.limit(function, x) if mpmath.isinf(x) and function is MAPS[2][1] else function(x)


@st.composite
def transformed(draw: Any) -> tuple[Any, float, float]:
    """A transformed law, and the ends of its support."""
    make, low, high = draw(st.sampled_from(BASES))
    ends = [mpmath.mpf(low), mpmath.mpf(high)]
    transforms = []
    for _ in range(draw(st.integers(1, 3))):
        fits = [m for m in MAPS if m[2] <= ends[0] and ends[1] <= max(m[3], ends[0])]
        transform, function, _, _ = draw(st.sampled_from(fits))
        ends = sorted(value(function, x) for x in ends)
        transforms.append(transform)
    nested = draw(st.booleans()) and len(transforms) > 1
    law = dist.TransformedDistribution(make(), transforms[:1] if nested else transforms)
    if nested:
        law = dist.TransformedDistribution(law, [T.ComposeTransform(transforms[1:])])
    return law, float(ends[0]), float(ends[1])


def agree_on(count: int, start: int) -> int:
    """Hold the supports of ``count`` transformed laws to their ends; how many were held."""
    held = 0

    @seed(start)
    @settings(max_examples=count, deadline=None, database=None)
    @given(transformed())
    def run(member: tuple[Any, float, float]) -> None:
        nonlocal held
        law, low, high = member
        ends = interval_of(support_of(law))
        assert ends is not None, f"{law.base_dist} under {law.transforms} has no known support"
        for found, right in zip(map(float, ends), (low, high), strict=True):
            near = math.isclose(found, right, rel_tol=1e-9, abs_tol=1e-9)
            assert near, f"{ends} for {(low, high)}: {law.base_dist} under {law.transforms}"
        held += 1

    run()
    return held


def test_the_support_of_a_transformed_law_is_the_image_of_its_bases() -> None:
    assert agree_on(500, start=0) >= 300


@pytest.mark.slow
def test_many_supports() -> None:
    assert agree_on(10_000, start=1) >= 2_000


def test_the_codomain_of_the_last_transform_is_told_from_the_image() -> None:
    """The negative control: what torch states is wrong for most members."""
    law = dist.TransformedDistribution(dist.Beta(2.0, 3.0), [T.AffineTransform(1.0, 3.0)])
    assert interval_of(law.support) == (-math.inf, math.inf)
    assert interval_of(support_of(law)) == (1.0, 4.0)


@pytest.mark.parametrize(
    ("law", "shown"),
    [
        (
            dist.TransformedDistribution(dist.Beta(2.0, 3.0), [T.AffineTransform(1.0, 3.0)]),
            "(1, 4)",
        ),
        (
            dist.TransformedDistribution(
                dist.Beta(torch.full((2,), 2.0), 3.0),
                [T.AffineTransform(torch.tensor([0.0, 1]), 3.0)],
            ),
            "([0, 1], [3, 4])[2]",
        ),
        (
            dist.TransformedDistribution(
                dist.Uniform(torch.zeros(2), 1.0).to_event(1), [T.AffineTransform(-1.0, 2.0)]
            ),
            "(-1, 1)[2]",
        ),
    ],
)
def test_types_show_the_image(law: Any, shown: str) -> None:
    assert str(space_of(law)) == f"Interval{shown}"


def test_quadrature_and_nuts_stay_inside() -> None:
    """x = -2 + 3 h, h half-normal; y = -3 pulls to the edge; mean by the trapezoidal rule."""

    @program
    def folded() -> torch.Tensor:
        law = dist.TransformedDistribution(dist.HalfNormal(1.0), [T.AffineTransform(-2.0, 3.0)])
        x = sample("x", law)
        observe("y", dist.Normal(x, 1.0), torch.tensor(-3.0))
        return x

    grid = torch.linspace(-2, 20, 200_001)
    weight = (-(((grid + 2) / 3) ** 2) / 2 - (grid + 3) ** 2 / 2).exp()
    mean = float(torch.trapezoid(grid * weight, grid) / torch.trapezoid(weight, grid))
    measure = denote(folded, quadrature=64)
    assert abs(float(measure.normalize().expect()) - mean) < 1e-5
    fit = MCMC(nuts(), chains=2, draws=300, warmup=200, compiled=False, progress=False).run(folded)
    assert float(fit["x"].min()) >= -2
    assert abs(float(fit["x"].mean()) - mean) < 0.12  # 4 standard errors at an ess of 250
    assert check.density(folded_law := dist.Weibull(1.0, 2.0)).verdict == "pass", folded_law


def test_data_outside_are_told_by_us() -> None:
    law = dist.TransformedDistribution(dist.HalfNormal(1.0), [T.AffineTransform(-2.0, 3.0)])

    @program
    def seen() -> None:
        observe("y", law, torch.tensor(-2.5))

    with pytest.raises(DataError, match=r"-2.5 is outside the support GreaterThan.*site 'y'"):
        denote(seen)


class Cubed(torch.distributions.Transform):
    """A map of the line that does not say that it is monotone."""

    domain = codomain = dist.constraints.real
    bijective = True

    def _call(self, x: torch.Tensor) -> torch.Tensor:
        return x**3

    def _inverse(self, y: torch.Tensor) -> torch.Tensor:
        return y.sign() * y.abs() ** (1 / 3)

    def log_abs_det_jacobian(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (3 * x**2).log()


class Rising(Cubed):
    """It says so, by its sign."""

    sign = 1


def test_an_unknown_map_is_refused_by_name_unless_it_says_that_it_is_monotone() -> None:
    law = dist.TransformedDistribution(dist.Uniform(0.0, 2.0), [Rising()])
    assert interval_of(support_of(law)) == (0.0, 8.0)
    law = dist.TransformedDistribution(dist.Normal(0.0, 2.0), [Cubed()])
    assert interval_of(support_of(law)) == (-math.inf, math.inf)  # all of its domain
    law = dist.TransformedDistribution(dist.Uniform(0.0, 2.0), [Cubed()])
    with pytest.raises(UnsupportedDistributionError, match="unknown support"):
        program(lambda: sample("x", law)).type()
    law = dist.TransformedDistribution(dist.Dirichlet(torch.ones(3)), [T.AffineTransform(0.0, 2.0)])
    assert space_of(law).kind == "Unknown"


# Supports that are wider on purpose, or have no values to draw from here.
_WIDE = {
    "ExtendedBinomial": "its purpose",
    "ExtendedBetaBinomial": "its purpose",
    "Delta": "carried by one point of the line",
    "Empirical": "carried by points of the line",
}


@pytest.mark.filterwarnings("ignore:class LKJCorrCholesky:FutureWarning")
@pytest.mark.parametrize("name", LAWS)
def test_every_law_is_positive_where_its_space_says(name: str) -> None:
    law = LAWS[name](torch.tensor(0.7))
    space = space_of(law)
    try:
        values = space.random(50, seed=1)
        with no_validation():
            rows = [x.expand(space.shape) for x in values]
            logs = torch.stack([log_density(law, x).sum() for x in rows])
    except (UnsupportedDistributionError, NotImplementedError, ValueError, IndexError):
        return  # no values to draw at random, or no density
    positive = bool((logs > -math.inf).all())
    assert positive == (name not in _WIDE), f"{name} on {space}: {logs.tolist()[:5]}"
