"""Code of JAX as programs: keys, choices, and kernels of BlackJAX with their mutants.

What the adapter does is tried on a stand-in of numpy's arrays, wherever the tests run; the kernels
of the library where it is installed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import fake_jax
from torch import Tensor

from pushforward import dist, factor, program, sample
from pushforward.ppl.errors import UnsupportedDistributionError
from pushforward.semantics import check, denote
from pushforward.validation.foreign import blackjax_kernel, blackjax_scheme, with_jax

pytestmark = pytest.mark.usefixtures("double")
MASSES = np.array([1.0, 2.0, 4.0, 3.0])
WHY = "blackjax is an optional extra, which is not installed here"


@program
def four() -> Tensor:
    x = sample("x", dist.Categorical(torch.ones(4)))
    factor("pi", torch.tensor(MASSES).log()[x])
    return x


@program
def index(weights: Tensor) -> Tensor:
    return sample("index", dist.Categorical(weights))


@pytest.fixture
def jax(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The stand-in, as if it were installed."""
    made = fake_jax.modules()
    for name, module in made.items():
        monkeypatch.setitem(sys.modules, name, module)
    return made["jax"]


# ---------------------------------------------------------------------------------- by the stand-in


def walk(jax: Any, power: float, accept: str) -> Callable[[Any, Any], Any]:
    """Metropolis on a ring of four; its acceptance is taken to a power, right only at 1."""

    def ratio(x: Any, y: Any) -> Any:
        return (MASSES[y] / MASSES[x]) ** power

    rules = {
        "bernoulli": lambda key, r: jax.random.bernoulli(key, np.minimum(r, 1.0)),
        "uniform": lambda key, r: jax.random.uniform(key) < r,
        "logs": lambda key, r: jax.numpy.log(jax.random.uniform(key)) < jax.numpy.log(r),
        "reversed": lambda key, r: r >= jax.random.uniform(key),
        "a difference": lambda key, r: jax.random.uniform(key) - r < 0,
    }

    def step(x: Any, key: Any) -> Any:
        first, second = jax.random.split(key)
        y = (x + jax.random.choice(first, np.array([-1, 1]))) % 4
        return jax.numpy.where(rules[accept](second, ratio(x, y)), y, x)

    return step


@pytest.mark.parametrize("accept", ["bernoulli", "uniform", "logs", "reversed", "a difference"])
def test_a_walk_with_keys(jax: Any, accept: str) -> None:
    check.reversible(with_jax(walk(jax, 1.0, accept)), four).require()
    assert check.invariant(with_jax(walk(jax, 0.5, accept)), four).verdict == "fail"


def test_points_that_are_searched_for(jax: Any) -> None:
    """Systematic resampling of three by (1/2, 1/2): the middle one is below 1/2 half the time."""

    def counted(key: Any) -> Any:
        points = (jax.numpy.arange(3) + jax.random.uniform(key)) / 3
        return jax.numpy.searchsorted(np.array([0.5, 1.0]), points)

    found = denote(with_jax(counted)).map(lambda x: int(x.sum())).pmf()
    assert found == pytest.approx({1: 0.5, 2: 0.5})


def test_a_key_that_serves_twice(jax: Any) -> None:
    """Of the same draw it gives the same number, which JAX does; of another it is an error."""

    def alike(key: Any) -> Any:
        return jax.numpy.asarray(
            1 * jax.random.bernoulli(key, 0.5) + 2 * jax.random.bernoulli(key, 0.5)
        )

    assert denote(with_jax(alike)).pmf() == pytest.approx({0: 0.5, 3: 0.5})

    def otherwise(x: Any, key: Any) -> Any:
        y = jax.random.choice(key, 4)
        return jax.numpy.where(jax.random.bernoulli(key, 0.5), x, y)

    report = check.invariant(with_jax(otherwise), four)
    assert "has a key by which choice has drawn other numbers" in report.counterexample


def test_a_key_from_elsewhere(jax: Any) -> None:
    def constant(x: Any, key: Any) -> Any:
        return jax.numpy.where(jax.random.bernoulli(jax.random.PRNGKey(7), 0.5), x, 1 - x)

    report = check.invariant(with_jax(constant), four)
    assert "does not come from the one handed over" in report.counterexample


def test_a_function_without_a_rule_is_named(jax: Any) -> None:
    with pytest.raises(UnsupportedDistributionError, match=r"jax\.random\.poisson has no rule"):
        denote(with_jax(lambda key: jax.random.poisson(key, 2.0)))


def test_continuous_laws_by_nodes(jax: Any) -> None:
    """The variance of 1 + 2 z + u, of a normal and a uniform number: 4 + 1/12."""

    def number(key: Any) -> Any:
        first, second = jax.random.split(key)
        return 1 + 2 * jax.random.normal(first) + jax.random.uniform(second)

    measure = denote(with_jax(number), quadrature=12)
    mean = float(measure.expect())
    assert mean == pytest.approx(1.5)
    assert float(measure.expect(lambda x: (x - mean) ** 2)) == pytest.approx(4 + 1 / 12)


def test_what_stood_there_stands_there_again(jax: Any) -> None:
    before = jax.random.uniform, jax.numpy.log
    denote(with_jax(walk(jax, 1.0, "logs")), torch.tensor(1))
    assert (jax.random.uniform, jax.numpy.log) == before


class _Chain:
    """In the manner of BlackJAX: a state with a position, and a step of (key, state)."""

    def __init__(self, step: Callable[[Any, Any], Any]) -> None:
        self.move = step

    def init(self, position: Any) -> Any:
        return Position(position)

    def step(self, key: Any, state: Any) -> tuple[Any, None]:
        return Position(self.move(state.position, key)), None


class Position:
    def __init__(self, position: Any) -> None:
        self.position = position


def test_an_algorithm_with_init_and_step(jax: Any) -> None:
    check.invariant(blackjax_kernel(lambda: _Chain(walk(jax, 1.0, "uniform"))), four).require()
    wrong = blackjax_kernel(lambda: _Chain(walk(jax, 0.5, "uniform")))
    assert check.invariant(wrong, four).verdict == "fail"


# ------------------------------------------------------------------------------- the library itself


def kernels(blackjax: Any) -> dict[str, tuple[Any, Any]]:
    """Of BlackJAX, on 0 to 3: each a sampler that is right, and one that is told something else."""
    import jax
    import jax.numpy as jnp

    there = np.array([[0, 1, 0, 0], [0.5, 0, 0.5, 0], [0, 0.5, 0, 0.5], [0, 0, 1, 0]])
    chances = np.array([0.1, 0.2, 0.3, 0.4])

    def log_mass(x: Any) -> Any:
        inside = (x >= 0) & (x < 4)
        return jnp.where(inside, jnp.log(jnp.asarray(MASSES))[jnp.clip(x, 0, 3)], -jnp.inf)

    def steps(*sizes: int) -> Any:
        return lambda key, x: jax.random.choice(key, np.array(sizes))

    def inward(key: Any, x: Any) -> Any:
        away = x + jax.random.choice(key, np.array([-1, 1]))
        return jnp.where(x == 0, 1, jnp.where(x == 3, 2, away))

    def by(table: Any) -> Any:
        return lambda a, b: jnp.log(jnp.asarray(table)[a.position, b.position])

    def anywhere(key: Any) -> Any:
        return jax.random.choice(key, 4, p=chances)

    def of_the(which: int) -> Any:
        return lambda *states: jnp.log(jnp.asarray(chances)[states[which].position])

    additive = blackjax.additive_step_random_walk
    return {
        "additive": (
            lambda: additive(log_mass, steps(-1, 1)),
            lambda: additive(log_mass, steps(-1, 1, 1)),
        ),
        "rmh": (
            lambda: blackjax.rmh(log_mass, inward, by(there)),
            lambda: blackjax.rmh(log_mass, inward),
        ),
        "irmh": (
            lambda: blackjax.irmh(log_mass, anywhere, of_the(1)),
            lambda: blackjax.irmh(log_mass, anywhere, of_the(0)),
        ),
    }


@pytest.mark.parametrize("name", ["additive", "rmh", "irmh"])
def test_kernels_of_blackjax(name: str) -> None:
    right, wrong = kernels(pytest.importorskip("blackjax", reason=WHY))[name]
    check.reversible(blackjax_kernel(right), four).require()
    assert check.invariant(blackjax_kernel(wrong), four).verdict == "fail"


@pytest.mark.parametrize("name", ["systematic", "multinomial"])
def test_schemes_of_blackjax(name: str) -> None:
    resampling = pytest.importorskip("blackjax.smc.resampling", reason=WHY)
    scheme, weights = getattr(resampling, name), torch.tensor([0.4, 0.1, 0.3, 0.2])
    check.valid(blackjax_scheme(scheme), index, weights).require()

    def tempered(key: Any, weights: Any, taken: int) -> Any:
        return scheme(key, weights**0.5 / (weights**0.5).sum(), taken)

    assert check.valid(blackjax_scheme(tempered), index, weights).verdict == "fail"
