"""Code of others as programs: of each adapter a twin that passes and a mutant that fails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from pyro.infer.mcmc import HMC, NUTS
from torch import Tensor

from pushforward import dist, factor, program, sample
from pushforward.ppl.errors import UnsupportedDistributionError
from pushforward.semantics import check, denote
from pushforward.validation.foreign import Generator, pyro_kernel, with_effects, with_generator

pytestmark = pytest.mark.usefixtures("double")

MASSES = np.array([1.0, 2.0, 4.0, 3.0])


@program
def four() -> Tensor:
    x = sample("x", dist.Categorical(torch.ones(4)))
    factor("pi", torch.tensor(MASSES).log()[x])
    return x


standard = program(
    lambda: sample("x", dist.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double()))
)


# ------------------------------------------------------------------------------ numpy's generators


def walk(x: Any, rng: Any) -> int:
    x = int(x)
    y = (x + rng.choice([-1, 1])) % 4
    return int(y) if np.log(rng.random()) < np.log(MASSES[y] / MASSES[x]) else x


def walk_that_sticks(x: Any, rng: Any) -> int:
    """At the ends it proposes to stay less often than its ratio takes for granted."""
    x = int(x)
    y = x + 1 if x == 0 else x - 1 if x == 3 else x + 2 * int(rng.integers(2)) - 1
    return y if rng.random() < MASSES[y] / MASSES[x] else x


def inverted(x: Any, rng: Any) -> int:
    return int(np.searchsorted(np.cumsum(MASSES / MASSES.sum()), rng.random()))


def inverted_strictly(x: Any, rng: Any) -> int:
    return int((np.cumsum(MASSES / MASSES.sum()) < rng.uniform(0.0, 0.99)).sum())


def weighted_choice(x: Any, rng: Any) -> int:
    return int(rng.choice(4, p=MASSES / MASSES.sum()))


def forgotten_weights(x: Any, rng: Any) -> int:
    return int(rng.choice(4))


def swapped(x: Any, rng: Any) -> int:
    """The first of a random order that a coin with its mass accepts."""
    for y in rng.permutation(4):
        if rng.uniform(0, 4) < MASSES[y]:
            return int(y)
    return int(x)


TWINS: list[tuple[Callable[..., Any], Callable[..., Any]]] = [
    (walk, walk_that_sticks),
    (inverted, inverted_strictly),
    (weighted_choice, forgotten_weights),
]


@pytest.mark.parametrize(("right", "wrong"), TWINS)
def test_code_with_a_generator(right: Callable[..., Any], wrong: Callable[..., Any]) -> None:
    check.invariant(with_generator(right), four).require()
    assert check.invariant(with_generator(wrong), four).verdict == "fail"


def test_a_generator_has_the_laws_of_numpy() -> None:
    """Means and variances of each method, known from its law."""
    found = {
        "random": lambda r: r.random(),
        "uniform": lambda r: r.uniform(1.0, 3.0),
        "normal": lambda r: r.normal(1.0, 2.0),
        "standard_normal": lambda r: r.standard_normal(),
        "exponential": lambda r: r.exponential(2.0),
        "gamma": lambda r: r.gamma(3.0, 0.5),
        "beta": lambda r: r.beta(2.0, 3.0),
        "integers": lambda r: r.integers(2, 6),
        "binomial": lambda r: r.binomial(3, 0.25),
    }
    expected = {
        "random": (0.5, 1 / 12),
        "uniform": (2.0, 4 / 12),
        "normal": (1.0, 4.0),
        "standard_normal": (0.0, 1.0),
        "exponential": (2.0, 4.0),
        "gamma": (1.5, 0.75),
        "beta": (0.4, 0.04),
        "integers": (3.5, 1.25),
        "binomial": (0.75, 0.5625),
    }
    for name, method in found.items():
        measure = denote(lambda: method(Generator()), quadrature=20)  # noqa: B023
        mean = float(measure.expect(float))
        square = float(measure.expect(lambda x: (float(x) - mean) ** 2))  # noqa: B023
        assert (mean, square) == pytest.approx(expected[name], abs=1e-6), name


def test_orders_and_arrays() -> None:
    orders = denote(lambda: tuple(Generator().permutation(3).tolist())).pmf()
    assert len(orders) == 6
    assert all(mass == pytest.approx(1 / 6) for mass in orders.values())
    pairs = denote(lambda: tuple(Generator().choice(3, size=2, replace=False).tolist())).pmf()
    assert len(pairs) == 6
    both = denote(lambda: int((Generator().random(2) < 0.25).sum())).pmf()
    assert both == pytest.approx({0: 9 / 16, 1: 6 / 16, 2: 1 / 16})

    def shuffled() -> tuple[int, ...]:
        cards = np.arange(3)
        Generator().shuffle(cards)
        return tuple(cards.tolist())

    assert denote(shuffled).pmf() == pytest.approx(orders)


PAIRS: dict[str, tuple[Callable[[Any], Any], float]] = {
    "exponential": (lambda r: r.exponential(np.ones(2)), 1.0),
    "gamma": (lambda r: r.gamma(1.0, np.ones(2)), 1.0),
    "gamma of shapes": (lambda r: r.gamma(np.ones(2)), 1.0),
    "normal": (lambda r: 1 + r.normal(np.zeros(2), 1.0), 1.0),
    "integers": (lambda r: r.integers([1, 1], 4), 4.0),
    "binomial": (lambda r: r.binomial(2, [0.5, 0.5]), 1.0),
    "rand": (lambda r: np.floor(2 * r.rand(2).astype(float)), 0.25),
}


@pytest.mark.parametrize("name", PAIRS)
def test_elements_are_drawn_apart(name: str) -> None:
    """The mean of a product of two independent numbers, of a known mean each."""
    method, expected = PAIRS[name]
    measure = denote(lambda: float(np.prod(method(Generator()))), quadrature=12)
    assert float(measure.expect()) == pytest.approx(expected, abs=1e-6)


def test_coins_of_two_uniform_numbers() -> None:
    found = denote(lambda: int((Generator().uniform(np.zeros(2), np.ones(2)) < 0.5).sum())).pmf()
    assert found == pytest.approx({0: 0.25, 1: 0.5, 2: 0.25})


def test_probabilities_that_do_not_sum_to_one() -> None:
    with pytest.raises(ValueError, match=r"sum to 0\.7"):
        Generator().choice(2, p=[0.5, 0.2])


SIZES: dict[str, Callable[[], Tensor]] = {
    "randn(2)": lambda: torch.randn(2),
    "randn(size=)": lambda: torch.randn(size=(2,)),
    "rand(size=)": lambda: torch.rand(size=(2,)) - 0.5,
    "randint(size=)": lambda: torch.randint(-1, 2, size=(2,)).double(),
    "randint(low=)": lambda: torch.randint(low=-1, high=2, size=(2,)).double(),
    "bernoulli(p=)": lambda: torch.bernoulli(torch.zeros(2), p=0.5) - 0.5,
}


@pytest.mark.parametrize("name", SIZES)
def test_numbers_of_a_tensor_are_drawn_apart(name: str) -> None:
    def product() -> Tensor:
        found = SIZES[name]()
        assert found.shape == (2,)
        return found.prod()

    assert float(denote(with_effects(product), quadrature=8).expect()) == pytest.approx(0, abs=1e-9)


def test_a_method_without_a_rule_is_named() -> None:
    with pytest.raises(UnsupportedDistributionError, match="no rule for vonmises"):
        denote(lambda: Generator().vonmises(0.0, 1.0))


# ------------------------------------------------------------------------- torch's global generator

PI = torch.tensor(MASSES)


def torch_walk(x: Tensor) -> Tensor:
    y = (x + 2 * torch.randint(0, 2, ()) - 1) % 4
    return y if torch.rand(1) < PI[y] / PI[x] else x


def torch_walk_with_a_root(x: Tensor) -> Tensor:
    y = (x + 2 * torch.randint(0, 2, ()) - 1) % 4
    return y if torch.rand(1) < (PI[y] / PI[x]).sqrt() else x


def drawn(x: Tensor) -> Tensor:
    return torch.multinomial(PI, 1)[0]


def drawn_evenly(x: Tensor) -> Tensor:
    return torch.multinomial(PI.clamp(max=3.0), 1)[0]


def by_a_law(x: Tensor) -> Tensor:
    return torch.distributions.Categorical(PI).sample()


def by_logits(x: Tensor) -> Tensor:
    return torch.distributions.Categorical(logits=PI).sample()


def by_coins(x: Tensor) -> Tensor:
    y = torch.randperm(4)[0]
    return torch.where(torch.bernoulli((PI[y] / PI[x]).clamp(max=1.0)) == 1, y, x)


def by_too_fair_coins(x: Tensor) -> Tensor:
    y = torch.randperm(4)[0]
    return torch.where(torch.empty(()).bernoulli_(0.5) == 1, y, x)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        (torch_walk, torch_walk_with_a_root),
        (drawn, drawn_evenly),
        (by_a_law, by_logits),
        (by_coins, by_too_fair_coins),
    ],
)
def test_code_that_draws_from_torch(
    right: Callable[[Tensor], Tensor], wrong: Callable[[Tensor], Tensor]
) -> None:
    check.invariant(with_effects(right), four).require()
    assert check.invariant(with_effects(wrong), four).verdict == "fail"
    assert "Impure" in check.invariant(right, four).counterexample


def normal_walk(power: float) -> Callable[[Tensor], Tensor]:
    def step(x: Tensor) -> Tensor:
        y = x + torch.randn(())
        return y if torch.rand(()).log() < power * (x * x - y * y) / 2 else x

    return step


def test_continuous_code_that_draws_from_torch() -> None:
    check.invariant(with_effects(normal_walk(1.0)), standard, quadrature=96).require()
    wrong = check.invariant(with_effects(normal_walk(1.1)), standard, quadrature=96)
    assert wrong.verdict == "fail"


def test_torch_has_its_laws() -> None:
    found: dict[str, Callable[[], Tensor]] = {
        "rand": lambda: torch.rand(()) + 0,
        "randn": lambda: torch.randn(()),
        "normal": lambda: torch.normal(torch.tensor(1.0), torch.tensor(2.0)),
        "uniform_": lambda: torch.empty(()).uniform_(1.0, 3.0),
        "exponential_": lambda: torch.empty(()).exponential_(0.5),
        "rand_like": lambda: torch.rand_like(torch.zeros(())) + 0,
        "Normal": lambda: torch.distributions.Normal(1.0, 2.0).sample(),
        "Exponential": lambda: torch.distributions.Exponential(0.5).sample(),
        "Uniform": lambda: torch.distributions.Uniform(1.0, 3.0).sample(),
        "Laplace": lambda: torch.distributions.Laplace(0.0, 1.0).sample(),
    }
    expected = {
        "rand": (0.5, 1 / 12),
        "rand_like": (0.5, 1 / 12),
        "randn": (0.0, 1.0),
        "normal": (1.0, 4.0),
        "Normal": (1.0, 4.0),
        "uniform_": (2.0, 1 / 3),
        "Uniform": (2.0, 1 / 3),
        "exponential_": (2.0, 4.0),
        "Exponential": (2.0, 4.0),
    }
    for name, moments in expected.items():
        measure = denote(with_effects(found[name]), quadrature=30)
        mean = float(measure.expect())
        square = float(measure.expect(lambda x: (x - mean) ** 2))  # noqa: B023
        assert (mean, square) == pytest.approx(moments, abs=1e-6), name


def test_a_function_without_a_rule_is_named() -> None:
    with pytest.raises(UnsupportedDistributionError, match=r"poisson has no rule"):
        denote(with_effects(lambda: torch.poisson(torch.tensor(2.0))))


# ------------------------------------------------------------------------------------------ Pyro's

OFF = {"adapt_step_size": False, "adapt_mass_matrix": False}


@pytest.mark.slow
def test_pyro_hmc_by_quadrature() -> None:
    """Of one leapfrog step; the mutant is told another density than the target's."""

    def kernel(power: float) -> Any:
        return pyro_kernel(
            lambda u: HMC(potential_fn=u, step_size=0.9, num_steps=1, **OFF),
            lambda x: -power * x * x / 2,
        )

    check.invariant(kernel(1.0), standard, quadrature=48).require()
    assert check.invariant(kernel(0.3), standard, quadrature=48).verdict == "fail"


@pytest.mark.parametrize("name", ["HMC", "NUTS"])
def test_pyro_kernels_by_draws(name: str) -> None:
    def kernel(power: float) -> Any:
        makes: dict[str, Callable[[Any], Any]] = {
            "HMC": lambda u: HMC(potential_fn=u, step_size=0.9, num_steps=2, **OFF),
            "NUTS": lambda u: NUTS(potential_fn=u, step_size=0.9, max_tree_depth=2, **OFF),
        }
        return pyro_kernel(makes[name], lambda x: -power * x * x / 2)

    check.stationary(kernel(1.0), standard, draws=2000).require()
    assert check.stationary(kernel(3.0), standard, draws=2000).verdict == "fail"


def test_pyro_kernels_of_states_by_name() -> None:
    @program
    def named() -> dict[str, Tensor]:
        one = torch.ones((), dtype=torch.float64)
        return {
            "a": sample("a", dist.Normal(0 * one, one)),
            "b": sample("b", dist.Normal(one, one)),
        }

    def kernel(middle: float) -> Any:
        return pyro_kernel(
            lambda u: HMC(potential_fn=u, step_size=0.9, num_steps=2, **OFF),
            lambda state: -(state["a"] ** 2 + (state["b"] - middle) ** 2) / 2,
        )

    check.stationary(kernel(1.0), named, draws=2000).require()
    assert check.stationary(kernel(0.0), named, draws=2000).verdict == "fail"
