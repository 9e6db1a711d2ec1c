"""Drivers compute in double precision on the CPU, or say that they do not.

The tests run as users do, with torch's default, single precision.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward import condition, factor, observe, plate, predict, program, sample, scan
from pushforward.errors import DataError
from pushforward.inference import (
    ADVI,
    MAP,
    MCMC,
    SMC,
    Consensus,
    Exact,
    Laplace,
    Pathfinder,
    importance,
    log_likelihood,
    nuts,
    sensitivity,
)
from pushforward.inference.kernels import single_site

QUICK: dict[str, Any] = {"draws": 20, "warmup": 20, "chains": 2, "progress": False}
DRIVERS: list[Any] = [
    MCMC(nuts(3), **QUICK),
    MCMC(single_site(), **QUICK),
    MCMC(nuts(3), compiled=False, **QUICK),
    SMC(particles=20, islands=1, stages=2, progress=False),
    Pathfinder(paths=1, draws=20, progress=False),
    Laplace(draws=20),
    MAP(starts=1),
    ADVI(steps=5, draws=20, progress=False),
    Exact(draws=20),
]
NAMES = [
    "nuts",
    "single_site",
    "uncompiled",
    "smc",
    "pathfinder",
    "laplace",
    "map",
    "advi",
    "exact",
]
X = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
Y = torch.tensor([0.1, 0.9, 2.2])


@pytest.fixture(autouse=True)
def as_users_do() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(before)


@program
def line(x: Tensor) -> None:
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sample("y", dist.Normal(x @ b, 0.5).to_event(1))


@program
def holds_a_matrix() -> None:
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sample("y", dist.Normal(X @ b, 0.5).to_event(1))


@program
def holds_a_law() -> None:
    b = sample("b", dist.Normal(Y.mean(), 1.0))
    sample("y", dist.Normal(b, 0.5).expand([3]).to_event(1))


NETWORK = torch.nn.Linear(2, 1).requires_grad_(False)


@program
def holds_a_network() -> None:
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sample("y", dist.Normal(NETWORK(b), 0.5).expand([3]).to_event(1))


@program
def holds_a_column() -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(b * X[:, 1], 0.5).to_event(1))


@program
def holds_columns() -> None:
    b = sample("b", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    sample("y", dist.Normal((b * X).sum(-1), 0.5).to_event(1))


@pytest.mark.parametrize("driver", DRIVERS, ids=NAMES)
def test_arguments_and_data_are_taken_to_double_precision(driver: Any) -> None:
    fit = driver.run(condition(line, {"y": Y}), X)
    assert fit["b"].dtype == torch.float64
    assert "single precision" not in repr(fit) and not any(
        "float32" in each for each in fit.warnings()
    )
    assert torch.get_default_dtype() == torch.float32
    assert predict(fit, line, X)["y"].dtype == torch.float64


@pytest.mark.parametrize("driver", DRIVERS, ids=NAMES)
@pytest.mark.parametrize("p", [holds_a_matrix, holds_a_law, holds_a_network], ids=repr)
def test_a_program_that_holds_single_tensors_is_run_so_and_says_it(driver: Any, p: Any) -> None:
    fit = driver.run(condition(p, {"y": Y}))
    assert fit["b"].dtype == torch.float32
    assert "single precision: b" in repr(fit)
    assert sum("was run in float32" in each for each in fit.warnings()) == 1
    assert predict(fit, p)["y"].dtype == torch.float32


@pytest.mark.parametrize("driver", DRIVERS[:1] + DRIVERS[3:], ids=NAMES[:1] + NAMES[3:])
def test_what_is_asked_for_is_done_without_a_word(driver: Any) -> None:
    fit = replace(driver, dtype=torch.float32).run(condition(line, {"y": Y}), X)
    assert fit["b"].dtype == torch.float32
    assert not any("float32" in each for each in fit.warnings())


def test_what_torch_mixes_counts_where_a_law_comes_to_be_single() -> None:
    """A number times a vector has the precision of the vector."""
    at_once = MCMC(nuts(3), **QUICK).run(condition(holds_a_column, {"y": Y}))
    assert at_once["b"].dtype == torch.float32
    assert any("'y'" in each for each in at_once.warnings())
    vectors = MCMC(nuts(3), **QUICK).run(condition(holds_columns, {"y": Y}))
    assert vectors["b"].dtype == torch.float64


def test_double_asked_of_a_program_that_cannot_is_an_error() -> None:
    with pytest.raises(DataError, match="dtypes are mixed: new tensors are float64"):
        MCMC(dtype=torch.float64, **QUICK).run(condition(holds_a_matrix, {"y": Y}))


@program
def years(x: Tensor) -> None:
    """A slope on years: x'x has terms of 4e6, of which single precision leaves a digit or two."""
    a = sample("a", dist.Normal(0.0, 1e3))
    b = sample("b", dist.Normal(0.0, 1.0))
    sample("y", dist.Normal(a + b * x, 0.1).to_event(1))


def test_a_regression_on_years_has_its_closed_form_by_default_and_not_in_single() -> None:
    x = torch.arange(1950.0, 2020.0)
    y = 3.0 + 0.02 * (x - 1985.0) + 0.1 * torch.sin(x)
    design = torch.stack([torch.ones_like(x), x], 1).double()
    prior = torch.tensor([1e-6, 1.0]).double().diag()
    law = torch.distributions.MultivariateNormal(
        torch.zeros(len(x)).double(),
        design @ prior.inverse() @ design.mT + 0.1**2 * torch.eye(len(x)).double(),
    )
    known = float(law.log_prob(y.double()))
    p = condition(years, {"y": y})
    assert abs(Laplace().run(p, x).log_evidence - known) < 1e-5  # the covariance has condition 1e9
    single = Laplace(dtype=torch.float32).run(p, x)
    assert abs(single.log_evidence - known) > 1e-4


def test_a_run_goes_on_in_the_precision_that_it_had() -> None:
    p = condition(line, {"y": Y})
    fit = MCMC(nuts(3), dtype=torch.float32, **QUICK).run(p, X)
    more = MCMC(nuts(3), **QUICK).run(p, X, resume=fit)
    assert more["b"].dtype == torch.float32 and more.size == 40


def test_what_an_algorithm_holds_counts_too() -> None:
    drift = torch.nn.Linear(1, 1).requires_grad_(False)

    def shown(p: Any, n: int) -> Any:
        assert drift is not None
        return importance(p, n)

    about: dict[str, Any] = {"particles": 5, "islands": 1, "progress": False}
    p = condition(line, {"y": Y})
    fits = [SMC(algorithm=each, **about).run(p, X) for each in (shown, importance)]
    told = [any("float32" in note for note in fit.warnings()) for fit in fits]
    assert told == [True, False]
    assert [fit["b"].dtype for fit in fits] == [torch.float32, torch.float64]


# ------------------------------------------------------------- forms that hold tensors of their own

HELD = torch.tensor([0.5, 1.0, 2.0])


@program
def inner(b: Tensor) -> None:
    observe("y", dist.Normal(b * HELD, 1.0).to_event(1), HELD)


@program
def nested() -> None:
    inner(sample("b", dist.Normal(0.0, 1.0)))


@program
def in_a_loop() -> None:
    def step(z: Tensor, t: Tensor) -> tuple[Tensor, None]:
        observe("y", dist.Normal(z * HELD, 1.0).to_event(1), HELD)
        return sample("z", dist.Normal(z, 1.0)), None

    scan(step)(sample("b", dist.Normal(0.0, 1.0)), torch.arange(2))


@program
def in_a_plate() -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    with plate("row", 3):
        observe("y", dist.Poisson((b * HELD).exp()), torch.tensor([1.0, 2.0, 3.0]))


@program
def masked() -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    law = dist.Normal(b * HELD, 1.0).mask(torch.tensor([True, False, True]))
    observe("y", law.to_event(1), HELD)


@program
def a_factor() -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    factor("score", -(b * HELD - 1.0).square().sum())


@program
def another_latent() -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    c = sample("c", dist.Normal(HELD, 1.0).to_event(1))
    observe("y", dist.Normal(b + c.sum(), 1.0), torch.tensor(1.0))


@program
def a_bounded_latent() -> None:
    b = sample("b", dist.Beta(HELD[0], 2.0))
    observe("y", dist.Bernoulli(b), torch.tensor(0.0))


FORMS = [nested, in_a_loop, in_a_plate, masked, a_factor, another_latent, a_bounded_latent]


@pytest.mark.parametrize("p", FORMS, ids=repr)
def test_held_tensors_are_found_in_every_form(p: Any) -> None:
    fit = Laplace(draws=5).run(p)
    assert {x.dtype for x in fit.draws.values()} == {torch.float32}
    assert sum("was run in float32" in each for each in fit.warnings()) == 1


def test_held_tensors_that_are_taken_to_double_are_no_reason() -> None:
    """A vector of one precision plus one of a lower is of the higher."""

    @program
    def wide() -> None:
        b = sample("b", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        observe("y", dist.Normal(b * HELD, 1.0).to_event(1), HELD.double())

    fit = Laplace(draws=5).run(wide)
    assert fit["b"].dtype == torch.float64 and not any("float32" in x for x in fit.warnings())


# ------------------------------------------------------------------------------------- after a fit


def test_what_is_asked_of_a_fit_is_in_its_precision() -> None:
    """By torch's default, single, data and arguments would not go with the draws."""
    p = condition(line, {"y": Y})
    fit = Laplace(draws=30).run(p, X)
    assert fit.dtype == torch.float64
    assert torch.equal(log_likelihood(fit, p, X)["y"], fit.log_likelihood["y"])
    with_double = condition(line, {"y": Y.double()})
    torch.set_default_dtype(torch.float64)
    expected = sensitivity(fit, with_double, X.double())
    torch.set_default_dtype(torch.float32)
    assert sensitivity(fit, p, X).equals(expected)


@program
def shared(x: Tensor, y: Tensor) -> None:
    b = sample("b", dist.Normal(0.0, 1.0))
    with plate("row", len(y)):
        observe("y", dist.Normal(b * x, 0.5), y)


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.float64], ids=str)
def test_parts_are_fitted_and_combined_in_the_precision_of_their_driver(dtype: Any) -> None:
    x = torch.linspace(-1.0, 1.0, 20)
    driver = MCMC(nuts(3), dtype=dtype, **{**QUICK, "draws": 50})
    fit = Consensus(driver, 2, progress=False).run(shared, x, 2.0 * x)
    assert fit["b"].dtype == (dtype or torch.float64)
    assert not any("was run in" in each for each in fit.warnings())
    digits = fit["b"].double() != fit["b"].float().double()
    assert bool(digits.any()) == (dtype != torch.float32)
