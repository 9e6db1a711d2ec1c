"""Spaces and program types: how they print, what they contain, and how a guide fits a model."""

from __future__ import annotations

import math
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor

from pushforward.ppl.errors import BranchError, InfiniteSupportError, UnsupportedDistributionError
from pushforward.ppl.types import (
    ProgramType,
    Site,
    Space,
    TraceType,
    compatible,
    space_of,
    space_of_value,
)


def ones(*shape: int) -> Tensor:
    return torch.ones(*shape)


def transformed(base: Any, transform: Any) -> Any:
    return dist.TransformedDistribution(base, [transform])


PRINTED: list[tuple[Any, str]] = [
    (dist.Normal(0.0, 1.0), "Real"),
    (dist.Normal(0.0, 1.0).expand([8]), "Real[8]"),
    (dist.Normal(0.0, 1.0).expand([3, 2]).to_event(1), "Real[3, 2]"),
    (dist.MultivariateNormal(ones(3), torch.eye(3)), "Real[3]"),
    (dist.Normal(ones(4), 1.0).mask(torch.tensor([True, False, True, True])), "Real[4]"),
    (dist.HalfCauchy(5.0), "Positive"),
    (dist.LogNormal(ones(2), 1.0), "Positive[2]"),
    (dist.Gamma(1.0, 1.0), "Positive"),
    (dist.Beta(1.0, 1.0), "UnitInterval"),
    (dist.Uniform(0.0, 1.0), "UnitInterval"),
    (dist.Uniform(-1.0, 2.5).expand([4]), "Interval(-1, 2.5)[4]"),
    (dist.Uniform(torch.tensor([0.0, 1.0]), 3.0), "Interval([0, 1], 3)[2]"),
    (dist.Uniform(torch.arange(6.0), 9.0), "Interval([0, 1, 2, 3, ...], 9)[6]"),
    (dist.Uniform(0.0, torch.zeros((), device="meta"), validate_args=False), "Interval(0, ?)"),
    (dist.Pareto(2.0, 1.0), "GreaterThan(2)"),
    (dist.Dirichlet(ones(4, 3)), "Simplex(3)[4]"),
    (dist.Dirichlet(ones(2, 4, 3)).to_event(1), "Simplex(3)[2, 4]"),
    (dist.LKJCholesky(3), "CorrCholesky(3)"),
    (dist.LKJ(3), "CorrMatrix(3)"),
    (dist.Wishart(torch.tensor(4.0), torch.eye(3)), "PositiveDefinite(3)"),
    (dist.VonMises(0.0, 1.0).expand([2]).to_event(1), "Circle[2]"),
    (dist.ProjectedNormal(ones(3)), "Sphere(3)"),
    (dist.Bernoulli(0.5), "Bool"),
    (dist.Bernoulli(logits=ones(5)), "Bool[5]"),
    (dist.Categorical(ones(3)), "Fin(3)"),
    (dist.Categorical(logits=ones(5, 3)), "Fin(3)[5]"),
    (dist.Binomial(4, 0.5).expand([2]), "Fin(5)[2]"),
    (dist.Binomial(torch.tensor([3.0, 5.0]), 0.5), "IntInterval(0, [3, 5])[2]"),
    (dist.BetaBinomial(1.0, 1.0, 4), "Fin(5)"),
    (dist.Poisson(2.0), "Nat"),
    (dist.Geometric(0.5), "Nat"),
    (dist.ZeroInflatedPoisson(torch.tensor(2.0), gate=torch.tensor(0.5)), "Nat"),
    (dist.Multinomial(5, ones(3)), "Multinomial(5, 3)"),
    (dist.OneHotCategorical(ones(2, 3)), "OneHot(3)[2]"),
    (dist.Delta(ones(2)), "Real[2]"),
    (dist.Unit(torch.tensor(0.0)), "Unit"),
    (dist.Unit(ones(2)), "Unit[2]"),
    (dist.ImproperUniform(constraints.positive, (), (2,)), "Positive[2]"),
    (dist.ImproperUniform(constraints.ordered_vector, (2,), (3,)), "Ordered(3)[2]"),
    (dist.ImproperUniform(constraints.positive_ordered_vector, (), (3,)), "PositiveOrdered(3)"),
    (dist.ImproperUniform(constraints.lower_cholesky, (), (3, 3)), "LowerCholesky(3)"),
    (dist.ImproperUniform(constraints.less_than(2.0), (), ()), "LessThan(2)"),
    (dist.ImproperUniform(constraints.integer_interval(-1, 2), (), ()), "IntInterval(-1, 2)"),
    (dist.ImproperUniform(constraints.positive_integer, (), ()), "IntAtLeast(1)"),
    (dist.ImproperUniform(constraints.dependent, (), (2,)), "Unknown[2]"),
    (transformed(dist.Normal(ones(2), 1.0), dist.transforms.ExpTransform()), "Positive[2]"),
    (transformed(dist.Normal(0.0, 1.0), dist.transforms.SigmoidTransform()), "UnitInterval"),
    (
        dist.MixtureSameFamily(dist.Categorical(ones(2)), dist.Gamma(ones(2), 1.0)),
        "Positive",
    ),
    (
        dist.MixtureSameFamily(dist.Categorical(ones(2)), dist.Uniform(ones(2), 3 * ones(2))),
        "Interval(1, 3)",
    ),
    (
        dist.MixtureSameFamily(
            dist.Categorical(ones(2)), dist.Uniform(ones(2), 2 + ones(2).cumsum(0))
        ),
        "Unknown",
    ),
]


@pytest.mark.parametrize(("distribution", "expected"), PRINTED, ids=[e for _, e in PRINTED])
def test_spaces_of_distributions_print(distribution: Any, expected: str) -> None:
    space = space_of(distribution)
    assert str(space) == repr(space) == expected
    shape = tuple(distribution.batch_shape + distribution.event_shape)
    assert space.shape == (shape[:-1] if space.kind == "Unit" else shape)


def test_bounds_of_a_random_value_print_as_unknown() -> None:
    class Random(Tensor):
        @classmethod
        def __torch_function__(
            cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func is Tensor.tolist:
                raise BranchError("Python looks at a random value")
            return super().__torch_function__(func, types, args, kwargs or {})

    top = torch.tensor(2.0).as_subclass(Random)
    space = space_of(dist.ImproperUniform(constraints.interval(0.0, top), (), ()))
    assert str(space) == "Interval(0, ?)"
    with pytest.raises(UnsupportedDistributionError, match=r"what lies in Interval\(0, \?\)"):
        space.contains(1.0)
    with pytest.raises(UnsupportedDistributionError, match="depend on a random value"):
        space.bijection()


SAMPLED = [d for d, name in PRINTED if not isinstance(d, dist.ImproperUniform | dist.Unit)]


@pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning")  # torch's Wishart
@pytest.mark.parametrize("distribution", SAMPLED, ids=lambda d: str(space_of(d)))
def test_spaces_contain_what_is_sampled(distribution: Any) -> None:
    space = space_of(distribution)
    if space.kind == "Unknown" or None in space.parameters:
        return
    with torch.random.fork_rng():
        torch.manual_seed(0)
        value = distribution.sample((20,))
    inside = space.contains(value)
    assert isinstance(inside, Tensor)
    assert bool(inside.all())
    assert inside.shape == (20, *space.batch_shape)


@pytest.mark.parametrize(
    ("distribution", "value"),
    [
        (dist.Normal(0.0, 1.0), math.nan),
        (dist.HalfCauchy(1.0), -1.0),
        (dist.Uniform(0.0, 2.0), 2.5),
        (dist.Dirichlet(ones(3)), [0.5, 0.5, 0.5]),
        (dist.Dirichlet(ones(3)), [0.5, 0.5]),
        (dist.Dirichlet(ones(3)), 1.0),
        (dist.LKJCholesky(2), [[1.0, 0.0], [1.0, 1.0]]),
        (dist.Wishart(torch.tensor(4.0), torch.eye(2)), [[1.0, 2.0], [2.0, 1.0]]),
        (dist.Bernoulli(0.5), 2),
        (dist.Categorical(ones(3)), 3),
        (dist.Categorical(ones(3)), 0.5),
        (dist.Poisson(1.0), -1),
        (dist.Multinomial(5, ones(3)), [1, 1, 1]),
        (dist.OneHotCategorical(ones(3)), [1, 1, 0]),
        (dist.VonMises(0.0, 1.0), 4.0),
    ],
)
def test_spaces_refuse_what_lies_outside(distribution: Any, value: Any) -> None:
    assert space_of(distribution).contains(value) is False


def test_contains_answers_element_by_element() -> None:
    inside = space_of(dist.Uniform(0.0, torch.tensor([1.0, 3.0]))).contains(
        torch.tensor([2.0, 2.0])
    )
    assert isinstance(inside, Tensor)
    assert inside.tolist() == [False, True]
    assert space_of(dist.Bernoulli(0.5)).contains(True) is True
    assert space_of(dist.Categorical(ones(3))).contains(2) is True


@pytest.mark.parametrize(
    ("distribution", "values"),
    [
        (dist.Bernoulli(0.5).expand([4]), [0, 1]),
        (dist.Categorical(ones(5, 3)), [0, 1, 2]),
        (dist.Binomial(2, 0.5), [0, 1, 2]),
        (dist.ImproperUniform(constraints.integer_interval(-1, 2), (), ()), [-1, 0, 1, 2]),
        (dist.OneHotCategorical(ones(3)), [[1, 0, 0], [0, 1, 0], [0, 0, 1]]),
        (
            dist.Multinomial(2, ones(3)),
            [[0, 0, 2], [0, 1, 1], [0, 2, 0], [1, 0, 1], [1, 1, 0], [2, 0, 0]],
        ),
    ],
)
def test_finite_spaces_enumerate_in_order(distribution: Any, values: list[Any]) -> None:
    space = space_of(distribution)
    assert space.finite
    assert not space.smooth
    listed = space.enumerate()
    assert listed.tolist() == values
    assert len({space.key(value) for value in listed}) == len(values)
    inside = space.contains(listed)
    assert isinstance(inside, Tensor)
    assert bool(inside.all())


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        (dist.Normal(0.0, 1.0), "Real cannot be enumerated"),
        (dist.Poisson(1.0), "Nat cannot be enumerated"),
        (dist.Binomial(torch.tensor([3.0, 5.0]), 0.5), r"IntInterval\(0, \[3, 5\]\) cannot"),
    ],
)
def test_other_spaces_do_not_enumerate(distribution: Any, message: str) -> None:
    space = space_of(distribution)
    assert not space.finite
    with pytest.raises(InfiniteSupportError, match=message):
        space.enumerate()


def test_smooth_spaces_are_the_continuous_ones() -> None:
    smooth = {space_of(d).kind for d, _ in PRINTED if space_of(d).smooth}
    rough = {space_of(d).kind for d, _ in PRINTED if not space_of(d).smooth}
    assert rough == {"Bool", "Fin", "IntInterval", "IntAtLeast", "Nat", "Multinomial", "OneHot"}
    assert {"Real", "Positive", "Simplex", "CorrCholesky", "Circle", "Unknown"} <= smooth


def test_keys_are_exact_and_do_not_depend_on_the_dtype() -> None:
    boolean, real = space_of(dist.Bernoulli(0.5)), space_of(dist.Normal(0.0, 1.0))
    assert boolean.key(torch.tensor(1.0)) == boolean.key(True) == boolean.key(torch.tensor(1))
    assert boolean.key(True) != boolean.key(False)
    assert real.key(torch.tensor(0.0)) == real.key(-0.0)
    assert real.key(torch.tensor(0.5, requires_grad=True)) == real.key(0.5)
    assert real.key(torch.tensor(1.0, dtype=torch.float64)) != real.key(1.0 + 2**-52)
    assert real.key(ones(2)) != real.key(ones(2, 1))
    assert real.key(math.nan) == real.key(math.nan)


def test_bijections_map_into_the_space() -> None:
    for distribution in (dist.Gamma(1.0, 1.0), dist.Uniform(-1.0, 2.0), dist.VonMises(0.0, 1.0)):
        space = space_of(distribution)
        inside = space.contains(space.bijection()(torch.linspace(-3, 3, 7)))
        assert isinstance(inside, Tensor)
        assert bool(inside.all())
    assert space_of(dist.LKJCholesky(3)).bijection()(torch.zeros(3)).shape == (3, 3)
    with pytest.raises(UnsupportedDistributionError, match="discrete values"):
        space_of(dist.Poisson(1.0)).bijection()


def test_equal_spaces_do_not_depend_on_how_they_are_written() -> None:
    assert space_of(dist.Gamma(1.0, 1.0)) == space_of(dist.LogNormal(0.0, 1.0))
    assert space_of(dist.Uniform(0.0, 0.1)) == space_of(
        dist.Uniform(0.0, torch.tensor(0.1).double())
    )
    assert space_of(dist.Uniform(0.0, 2.0)) != space_of(dist.Uniform(0.0, 3.0))
    assert space_of(dist.Normal(0.0, 1.0)) != space_of(dist.Normal(ones(1), 1.0))
    assert len({space_of(dist.Normal(0.0, 1.0)), space_of(dist.Normal(3.0, 2.0))}) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "Unit"),
        (True, "Bool"),
        (3, "Int"),
        (0.5, "Real"),
        (ones(8), "Real[8]"),
        (torch.arange(3), "Int[3]"),
        (torch.tensor([True]), "Bool[1]"),
        ((1.0, ones(2)), "(Real, Real[2])"),
        ([1], "(Int,)"),
        ((), "()"),
        ({"a": 1.0, "b": (None, 2)}, "{a: Real, b: (Unit, Int)}"),
        (object(), "Unknown"),
        (torch.tensor(1j), "Unknown"),
    ],
)
def test_spaces_of_values_print(value: Any, expected: str) -> None:
    assert str(space_of_value(value)) == expected


def site(distribution: Any, observed: bool = False, line: str | None = None) -> Site:
    return Site(space_of(distribution), observed, (), line)


def eight_schools(observed: bool) -> TraceType:
    return TraceType(
        {
            "mu": site(dist.Normal(0.0, 5.0)),
            "tau": site(dist.HalfCauchy(5.0)),
            "z": site(dist.Normal(0.0, 1.0).expand([8])),
            "y": site(dist.Normal(ones(8), 1.0), observed),
        }
    )


def test_program_types_print_as_in_the_design() -> None:
    result = space_of_value(ones(8))
    plain = ProgramType((result,), eight_schools(False), result, True)
    assert str(plain) == "{mu: Real, tau: Positive, z: Real[8], y: Real[8]} -> P Real[8]"
    scored = ProgramType((result,), eight_schools(True), result, False)
    assert str(scored) == "{mu: Real, tau: Positive, z: Real[8], y: Real[8] observed} -> M Real[8]"
    assert str(ProgramType((), TraceType({}), Space("Unit"), True)) == "{} -> P Unit"
    assert list(eight_schools(True).latents) == ["mu", "tau", "z"]


def test_sites_of_a_scan_print_as_a_power() -> None:
    normal, vector = dist.Normal(0.0, 1.0), dist.Normal(ones(2), 1.0)
    steps = range(10)
    assert str(TraceType({f"z[{t}]": site(normal) for t in steps})) == "{z: Real^10}"
    interleaved = {"mu": site(normal)}
    for t in steps:
        interleaved |= {f"z[{t}]": site(vector), f"y[{t}]": site(normal, observed=True)}
    interleaved["end"] = site(normal)
    printed = "{mu: Real, z: Real[2]^10, y: Real^10 observed, end: Real}"
    assert str(TraceType(interleaved)) == printed
    nested = {f"z[{t}][{s}]": site(normal) for t in range(3) for s in range(2)}
    assert str(TraceType(nested)) == "{z: (Real^2)^3}"


@pytest.mark.parametrize(
    ("names", "spaces"),
    [
        (["z[0]", "z[2]"], "{z[0]: Real, z[2]: Real}"),
        (["z[1]", "z[0]"], "{z[1]: Real, z[0]: Real}"),
        (["z", "z[0]"], "{z: Real, z[0]: Real}"),
    ],
)
def test_irregular_families_are_not_grouped(names: list[str], spaces: str) -> None:
    assert str(TraceType({name: site(dist.Normal(0.0, 1.0)) for name in names})) == spaces


def test_families_of_different_spaces_are_not_grouped() -> None:
    sites = {"z[0]": site(dist.Normal(0.0, 1.0)), "z[1]": site(dist.HalfCauchy(1.0))}
    assert str(TraceType(sites)) == "{z[0]: Real, z[1]: Positive}"


def differences(guide: TraceType, model: TraceType) -> list[str]:
    """What keeps the guide from fitting, without the hints."""
    return [text.rsplit(". ", 1)[0] for text in compatible(guide, model)]


def test_a_guide_that_fits_has_no_differences() -> None:
    guide = TraceType(
        {
            "z": site(dist.Normal(ones(8), 1.0).to_event(1)),
            "tau": site(dist.LogNormal(0.0, 1.0)),
            "mu": site(dist.Normal(0.0, 1.0)),
        }
    )
    assert differences(guide, eight_schools(True)) == []
    assert differences(eight_schools(True), eight_schools(True)) == ["the guide observes 'y'"]


def test_differences_between_a_guide_and_a_model_are_named() -> None:
    guide = TraceType(
        {
            "mu": site(dist.Normal(ones(1), 1.0), line="guide.py:3"),
            "taau": site(dist.Gamma(1.0, 1.0), line="guide.py:4"),
            "z": site(dist.Dirichlet(ones(4))),
            "y": site(dist.Normal(ones(8), 1.0)),
        }
    )
    assert differences(guide, eight_schools(True)) == [
        "the guide does not propose 'tau', which the model samples as Positive",
        "at 'mu' the guide proposes shape [1] where the model wants [] (guide.py:3)",
        "the guide proposes 'taau', which the model does not sample (guide.py:4); "
        "did you mean 'tau'?",
        "at 'z' the guide proposes Simplex(4) where the model wants Real",
        "at 'z' the guide proposes shape [4] where the model wants [8]",
        "the guide proposes 'y', which the model observes",
    ]


def test_differences_state_the_direction() -> None:
    real = TraceType({"tau": site(dist.Normal(0.0, 1.0), line="a.py:1")})
    positive = TraceType({"tau": site(dist.HalfCauchy(1.0), line="b.py:2")})
    forward, backward = differences(real, positive), differences(positive, real)
    assert forward == ["at 'tau' the guide proposes Real where the model wants Positive (a.py:1)"]
    assert backward == ["at 'tau' the guide proposes Positive where the model wants Real (b.py:2)"]


def test_types_are_read_without_touching_torch_random_state() -> None:
    before = torch.get_rng_state()
    for distribution, _ in PRINTED:
        space_of(distribution)
    assert torch.equal(before, torch.get_rng_state())
