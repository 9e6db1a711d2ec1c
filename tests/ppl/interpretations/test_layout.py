"""Unconstraining transforms: round trips, Jacobians against autodiff, packing, starting points."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from pushforward.ppl.errors import (
    DataError,
    InitializationError,
    SupportError,
    UnsupportedDistributionError,
)
from pushforward.ppl.interpretations.layout import Layout
from pushforward.ppl.interpretations.starts import initial
from pushforward.ppl.types.bijections import bijection


def everything(value: Tensor) -> Tensor:
    return value.reshape(-1)


def all_but_last(value: Tensor) -> Tensor:
    return value[..., :-1].reshape(-1)


def lower(value: Tensor, offset: int = 0) -> Tensor:
    rows, columns = torch.tril_indices(value.shape[-2], value.shape[-1], offset)
    return value[..., rows, columns].reshape(-1)


def strictly_lower(value: Tensor) -> Tensor:
    return lower(value, -1)


BOUNDS = torch.tensor([-1.0, 2.0]), torch.tensor([0.5, 7.0])
# constraint, shape, free dimension, the coordinates of the value in which its measure is written
CASES: dict[str, tuple[Any, tuple[int, ...], int, Callable[[Tensor], Tensor]]] = {
    "real": (constraints.real, (), 1, everything),
    "real_tensor": (constraints.real, (3, 2), 6, everything),
    "real_vector": (constraints.real_vector, (2, 3), 6, everything),
    "positive": (constraints.positive, (4,), 4, everything),
    "nonnegative": (constraints.nonnegative, (), 1, everything),
    "softplus_positive": (constraints.softplus_positive, (2,), 2, everything),
    "greater_than": (constraints.greater_than(-3.0), (2,), 2, everything),
    "less_than": (constraints.less_than(3.0), (2,), 2, everything),
    "unit_interval": (constraints.unit_interval, (3,), 3, everything),
    "interval": (constraints.interval(-2.0, 5.0), (2, 2), 4, everything),
    "interval_of_tensors": (constraints.interval(*BOUNDS), (2,), 2, everything),
    "half_open": (constraints.half_open_interval(0.0, 3.0), (), 1, everything),
    "independent": (constraints.independent(constraints.positive, 2), (2, 3), 6, everything),
    "simplex": (constraints.simplex, (4,), 3, all_but_last),
    "simplices": (constraints.simplex, (2, 3), 4, all_but_last),
    "simplex_of_one": (constraints.simplex, (1,), 0, all_but_last),
    "ordered": (constraints.ordered_vector, (4,), 4, everything),
    "positive_ordered": (constraints.positive_ordered_vector, (2, 3), 6, everything),
    "corr_cholesky": (constraints.corr_cholesky, (4, 4), 6, strictly_lower),
    "corr_choleskys": (constraints.corr_cholesky, (2, 3, 3), 6, strictly_lower),
    "corr_matrix": (constraints.corr_matrix, (3, 3), 3, strictly_lower),
    "lower_cholesky": (constraints.lower_cholesky, (2, 3, 3), 12, lower),
    "softplus_lower_cholesky": (constraints.softplus_lower_cholesky, (3, 3), 6, lower),
    "unit_lower_cholesky": (constraints.unit_lower_cholesky, (3, 3), 3, strictly_lower),
    "positive_definite": (constraints.positive_definite, (3, 3), 6, lower),
}
every_case = pytest.mark.parametrize("case", CASES)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-11}


def layout_of(case: str, dtype: torch.dtype = torch.float64) -> Layout:
    constraint, shape, _, _ = CASES[case]
    return Layout({"x": (constraint, shape, dtype)})


def points(size: int, count: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    return 4 * torch.rand(count, size, generator=generator, dtype=dtype) - 2


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pack_inverts_unpack(case: str, dtype: torch.dtype) -> None:
    constraint, shape, size, _ = CASES[case]
    layout = layout_of(case, dtype)
    assert layout.size == size == len(layout.coordinate_names())
    for u in points(size, 20, dtype):
        values, log_det = layout.unpack(u)
        assert values["x"].shape == shape
        assert values["x"].dtype == log_det.dtype == dtype
        assert log_det.shape == ()
        assert bool(constraint.check(values["x"]).all())
        packed = layout.pack(values)
        assert packed.dtype == dtype
        tolerance = 20 * TOLERANCE[dtype]
        torch.testing.assert_close(packed, u, rtol=tolerance, atol=tolerance)


def jacobian_errors(
    case: str, unpack: Callable[[Tensor], tuple[dict[str, Tensor], Tensor]]
) -> float:
    """The largest deviation of the stated log |det| from autodiff's, over random points."""
    _, _, size, coordinates = CASES[case]
    worst = 0.0
    for u in points(size, 20):
        jacobian = torch.func.jacrev(lambda u: coordinates(unpack(u)[0]["x"]))(u)
        expected = torch.linalg.slogdet(jacobian).logabsdet
        worst = max(worst, float((unpack(u)[1] - expected).abs()))
    return worst


@every_case
def test_jacobian_is_that_of_autodiff(case: str) -> None:
    assert jacobian_errors(case, layout_of(case).unpack) < 1e-10


VOLUME_PRESERVING = {"real", "real_tensor", "real_vector", "simplex_of_one", "unit_lower_cholesky"}


@pytest.mark.parametrize("case", sorted(CASES.keys() - VOLUME_PRESERVING))
def test_a_layout_without_its_jacobian_is_rejected(case: str) -> None:
    def dropped(u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values, log_det = layout_of(case).unpack(u)
        return values, torch.zeros_like(log_det)

    def half(u: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        values, log_det = layout_of(case).unpack(u)
        return values, log_det / 2

    assert jacobian_errors(case, dropped) > 0.1
    assert jacobian_errors(case, half) > 0.05


@pytest.mark.parametrize(
    "distribution",
    [dist.Gamma(2.0, 3.0), dist.Beta(2.0, 3.0), dist.Uniform(-1.0, 4.0), dist.Pareto(1.0, 2.5)],
)
def test_densities_keep_their_mass(distribution: Any) -> None:
    layout = Layout({"x": (distribution.support, (), torch.float64)})
    grid = torch.linspace(-40, 40, 8001, dtype=torch.float64)

    def log_density(u: Tensor) -> Tensor:
        values, log_det = layout.unpack(u)
        log_prob: Tensor = distribution.log_prob(values["x"])
        return log_prob + log_det

    with torch.no_grad():
        density = torch.func.vmap(log_density)(grid[:, None]).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-7)


def test_corr_cholesky_keeps_its_jacobian_near_strong_correlation() -> None:
    u = torch.tensor([4.0, 4.0, 4.0, 8.0, 8.0, 8.0])
    _, single = layout_of("corr_cholesky", torch.float32).unpack(u)
    _, double = layout_of("corr_cholesky").unpack(u.double())
    assert float(single) == pytest.approx(float(double), rel=1e-5)
    assert float(double) == pytest.approx(-88.9120, abs=1e-4)  # torch's own transform in float64


MIXED = {
    "mu": (constraints.real, (), torch.float32),
    "tau": (constraints.positive, (), torch.float32),
    "z": (constraints.real, (4,), torch.float64),
    "p": (constraints.simplex, (3,), torch.float32),
    "w": (constraints.real, (2, 2), torch.float32),
}


def test_layout_of_several_sites() -> None:
    layout = Layout(MIXED)
    assert layout.size == 12
    assert layout.dtype == torch.float64
    names = ["mu", "tau", "z[0]", "z[1]", "z[2]", "z[3]", "p[0]", "p[1]"]
    assert layout.coordinate_names() == [*names, "w[0, 0]", "w[0, 1]", "w[1, 0]", "w[1, 1]"]
    assert [layout.site_of(i) for i in (0, 1, 5, 6, 11)] == ["mu", "tau", "z", "p", "w"]
    u = torch.arange(12, dtype=torch.float64) / 10
    values, log_det = layout.unpack(u)
    assert list(values) == list(MIXED)
    assert {name: value.dtype for name, value in values.items()} == {
        name: dtype for name, (_, _, dtype) in MIXED.items()
    }
    assert float(values["tau"]) == pytest.approx(math.exp(0.1))
    _, alone = Layout({"p": MIXED["p"]}).unpack(u[6:8])
    assert float(log_det) == pytest.approx(0.1 + float(alone))
    torch.testing.assert_close(layout.pack(values), u, rtol=0, atol=1e-6)


def test_empty_layout() -> None:
    layout = Layout({})
    values, log_det = layout.unpack(torch.zeros(0))
    assert (layout.size, values, float(log_det)) == (0, {}, 0.0)
    assert layout.pack({}).shape == (0,)


@every_case
def test_works_under_vmap_grad_and_capture(case: str) -> None:
    layout = layout_of(case)
    u = points(layout.size, 3)

    def log_density(u: Tensor) -> Tensor:
        values, log_det = layout.unpack(u)
        return log_det - (values["x"] ** 2).sum()

    batched = torch.func.vmap(torch.func.grad_and_value(log_density))
    captured = make_fx(batched)(u + 0.1)  # type: ignore[no-untyped-call]
    for (gradient, value), i in zip([batched(u), captured(u)], [0, 1], strict=True):
        for lane in range(3):
            leaf = u[lane].clone().requires_grad_()
            single = log_density(leaf)
            (expected,) = torch.autograd.grad(single, leaf)
            torch.testing.assert_close(value[lane], single.detach(), msg=f"run {i}")
            torch.testing.assert_close(gradient[lane], expected, msg=f"run {i}")
    values = torch.func.vmap(lambda u: layout.unpack(u)[0])(u)
    torch.testing.assert_close(torch.func.vmap(layout.pack)(values), u)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        (
            constraints.boolean,
            r"discrete values \(Boolean\(\)\).*site 'k'.*enumerate or marginalise",
        ),
        (constraints.independent(constraints.nonnegative_integer, 1), "discrete values.*site 'k'"),
        (
            constraints.sphere,
            "no bijection from the reals onto Sphere.*site 'k'.*normalised Normal",
        ),
        (constraints.dependent, "unknown support.*site 'k'"),
        (
            constraints.interval(0.0, torch.zeros((), device="meta")),
            "bounds of the support depend on a random value.*site 'k'.*affine function",
        ),
    ],
)
def test_sites_without_coordinates_are_named(constraint: Any, message: str) -> None:
    with pytest.raises(UnsupportedDistributionError, match=message):
        Layout({"k": (constraint, (2,), torch.float32)})


def test_layout_refuses_integers_and_shapes_that_do_not_fit() -> None:
    with pytest.raises(UnsupportedDistributionError, match=r"torch.int64 .*site 'k'.*use floats"):
        Layout({"k": (constraints.real, (), torch.int64)})
    with pytest.raises(DataError, match=r"\[\] does not fit Interval.*site 'x'"):
        Layout({"x": (constraints.interval(*BOUNDS), (), torch.float32)})


@pytest.mark.parametrize(
    ("case", "value"),
    [
        ("positive", [1.0, -2.0, 3.0, 4.0]),
        ("positive", [1.0, 0.0, 3.0, 4.0]),
        ("unit_interval", [0.5, 1.5, 0.5]),
        ("real", math.nan),
        ("real", math.inf),
        ("simplex", [0.5, 0.6, 0.7, 0.8]),
        ("ordered", [1.0, 3.0, 2.0, 4.0]),
        ("corr_cholesky", (2 * torch.eye(4)).tolist()),
        ("unit_lower_cholesky", [[1.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 1.0]]),
        ("positive_definite", [[1.0, 2.0, 0.0], [2.0, 1.0, 0.0], [0.0, 0.0, 1.0]]),
    ],
)
def test_pack_refuses_values_outside_the_support(case: str, value: Any) -> None:
    with pytest.raises(SupportError, match=r"is not in the interior of .*site 'x'"):
        layout_of(case).pack({"x": torch.tensor(value)})


def test_pack_refuses_wrong_names_and_shapes() -> None:
    layout = Layout({"mu": MIXED["mu"], "tau": MIXED["tau"]})
    with pytest.raises(DataError, match=r"sites missing: \['tau'\], unknown: \['tua'\]"):
        layout.pack({"mu": 0.0, "tua": 1.0})
    with pytest.raises(DataError, match=r"shape \[2\] where \[\] is needed.*site 'mu'"):
        layout.pack({"mu": torch.zeros(2), "tau": 1.0})
    torch.testing.assert_close(layout.pack({"tau": 1, "mu": 0.5}), torch.tensor([0.5, 0.0]))


def test_bijection_keeps_bounds_of_tensors() -> None:
    u = torch.zeros(2)
    value = bijection(constraints.interval(*BOUNDS))(u)
    torch.testing.assert_close(value, torch.tensor([-0.25, 4.5]))


class Uniforms:
    """A source of uniform draws in [-2, 2] that counts its calls and remembers what it gave."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.given: list[Tensor] = []

    def __call__(self, shape: tuple[int, ...]) -> Tensor:
        self.given.append(4 * torch.rand(shape, generator=self.generator) - 2)
        return self.given[-1]


TWO = Layout({"mu": MIXED["mu"], "tau": MIXED["tau"]})


def test_only_failing_chains_draw_again() -> None:
    draws = Uniforms()

    def log_density(u: Tensor) -> Tensor:
        return torch.where(u[0] > 1.0, -u.square().sum(), -torch.inf)

    u = initial(TWO, log_density, 16, draws)
    assert u.shape == (16, 2)
    assert bool((u[:, 0] > 1.0).all())
    given = torch.stack(draws.given)
    first = (given[:, :, 0] > 1.0).to(torch.int64).argmax(0)  # the first good draw of each chain
    assert int(first.max()) == len(draws.given) - 1 > 2
    torch.testing.assert_close(u, given[first, torch.arange(16)], rtol=0, atol=0)


def test_a_finite_start_is_kept() -> None:
    draws = Uniforms()
    u = initial(TWO, lambda u: -u.square().sum(), 5, draws)
    assert len(draws.given) == 1
    torch.testing.assert_close(u, draws.given[0], rtol=0, atol=0)


def test_zero_density_everywhere_is_an_error_that_names_the_sites() -> None:
    draws = Uniforms()
    message = (
        r"no starting point within 2 of the origin for 3 of 3 chains after 8 tries: "
        r"the log density is -inf; last tried mu = -?[\d.]+, tau = [\d.]+"
    )
    with pytest.raises(InitializationError, match=message):
        initial(TWO, lambda u: u.sum() - torch.inf, 3, draws, retries=7)
    assert len(draws.given) == 8
    with pytest.raises(InitializationError, match="is -inf; 'y' has no mass; last tried"):
        initial(TWO, lambda u: u.sum() - torch.inf, 3, draws, blame=lambda u: "'y' has no mass")


def test_an_infinite_gradient_names_its_site() -> None:
    def log_density(u: Tensor) -> Tensor:
        return u[0] + (u[1] - u[1]).sqrt()

    with pytest.raises(
        InitializationError, match="gradient of the log density is not finite in 'tau'"
    ):
        initial(TWO, log_density, 2, Uniforms(), retries=2)


def test_nan_is_an_error_where_no_start_is_found() -> None:
    draws = Uniforms()

    def log_density(u: Tensor) -> Tensor:
        return torch.where(u[0] > 1.0, torch.nan, -torch.inf) + 0 * u.sum()

    with pytest.raises(
        InitializationError, match=r"log density of chain \d+ is NaN: at mu = 1\.\d+, tau"
    ):
        initial(TWO, log_density, 64, draws)
    assert len(draws.given) == 101
    only = Uniforms()
    with pytest.raises(InitializationError, match="is NaN"):
        initial(TWO, lambda u: u.sum() * torch.nan, 3, only)
    assert len(only.given) == 10
    past = initial(TWO, lambda u: torch.where(u[0] > 1.0, torch.nan, -u.square().sum()), 64, draws)
    assert bool((past[:, 0] <= 1.0).all())

    blamed: list[Tensor] = []

    def blame(u: Tensor) -> str:
        blamed.append(u)
        return "the value of 'tau' makes 'y' NaN"

    with pytest.raises(InitializationError, match="is NaN: the value of 'tau' makes 'y' NaN"):
        initial(TWO, log_density, 64, Uniforms(), blame=blame)
    assert float(blamed[0][0]) > 1.0


def test_starting_points_of_a_model_without_latents() -> None:
    u = initial(Layout({}), lambda u: u.sum() - 1.0, 4, Uniforms())
    assert u.shape == (4, 0)


def test_starting_points_leave_torch_random_state_alone() -> None:
    before = torch.get_rng_state()
    initial(TWO, lambda u: -u.square().sum(), 5, Uniforms())
    assert torch.equal(before, torch.get_rng_state())
