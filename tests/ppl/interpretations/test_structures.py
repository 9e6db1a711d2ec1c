"""What is found of a program for some arguments holds for others unless it reads their numbers.

The class: programs whose control flow, names, counts or indexes are read from their arguments, in
any way that Python has, called again with other values of the same shapes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import assess, cond, dist, marginal, observe, plate, sample, switch
from pushforward.inference.vi import enum, objective, summed_elbo
from pushforward.ppl.interpretations import factors
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


def two() -> tuple[Tensor, Tensor]:
    return sample("z", dist.Bernoulli(0.3)), sample("w", dist.Bernoulli(0.6))


def see(x: Tensor) -> None:
    observe("y", dist.Bernoulli(0.2 + 0.6 * x), torch.tensor(1.0))


def by(choose: Callable[[Tensor], Any]) -> Callable[[Tensor], None]:
    """A program that looks at its first or second choice, as a function of its argument says."""

    def p(flags: Tensor) -> None:
        see(two()[int(choose(flags))])

    return p


def counted(flags: Tensor) -> None:
    z, w = two()
    for _ in range(int(flags.sum())):
        z, w = w, z
    see(z)


def through_cond(flags: Tensor) -> None:
    z, w = two()
    cond(flags[0] > 0, lambda: see(w), lambda: see(z))()


def through_switch(flags: Tensor) -> None:
    z, w = two()
    switch(flags[0].long(), lambda: see(z), lambda: see(w))()


def totals(flags: Tensor) -> None:
    """What values a choice has is read, by its law."""
    k = sample("k", dist.Binomial(2 + 3 * flags[0], torch.tensor(0.5)))
    observe("y", dist.Bernoulli((k + 1) / 10), torch.tensor(1.0))


READERS: dict[str, Callable[[Tensor], None]] = {
    "branch": by(lambda x: 1 if x[0] > 0 else 0),
    "item": by(lambda x: x[0].item()),
    "whole": by(lambda x: int(x[0])),
    "list": by(lambda x: x.tolist()[0]),
    "numpy": by(lambda x: x.numpy()[0]),
    "equal": by(lambda x: torch.equal(x, torch.ones(2))),
    "mask": by(lambda x: len(x[x > 0]) > 0),
    "nonzero": by(lambda x: len(x.nonzero()) > 0),
    "unique": by(lambda x: len(x.unique()) == 1 and x.max() > 0),
    "computed": by(lambda x: (x.exp().sum() - 2).round().clamp(max=1)),
    "in place": by(lambda x: torch.zeros(2).add_(x)[0] > 0),
    "any": by(lambda x: x.bool().any()),
    "count": counted,
    "cond": through_cond,
    "switch": through_switch,
    "totals": totals,
}


@pytest.mark.parametrize("name", READERS)
def test_what_was_found_for_other_values_is_not_taken(name: str) -> None:
    p = READERS[name]
    m = marginal(p, exact=True)
    for flags in ([0.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]):
        argument = torch.tensor(flags)
        found = math.exp(assess(m, {}, argument)[0])
        assert found == pytest.approx(denote(p, argument).mass()), f"{name} at {flags}"


def test_values_that_are_not_read_are_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0
    make = factors.FiniteLatents.__init__

    def counting(*args: Any) -> None:
        nonlocal made
        made += 1
        make(*args)

    monkeypatch.setattr(factors.FiniteLatents, "__init__", counting)

    def p(x: Tensor, y: Tensor, at: Tensor) -> None:
        with plate("n", len(y)):
            z = sample("z", dist.Bernoulli(x))
            observe("y", dist.Normal(z[at], 1.0), y)
            observe("k", dist.Poisson(torch.where(x > 0.5, 2.0, 1.0)), y.abs().floor())

    m = marginal(p, exact=True)
    at = torch.tensor([0, 1, 2])
    for x in (0.2, 0.4, 0.8):
        args = torch.full((3,), x), torch.tensor([0.5, x, 2.0]), at
        found = math.exp(assess(m, {}, *args)[0])
        assert found == pytest.approx(denote(p, *args).mass())
    assert made == 1


def test_bounds_follow_what_their_programs_read() -> None:
    p = READERS["branch"]

    def guide(flags: Tensor) -> None:
        sample("z", enum(dist.Bernoulli(0.5)))
        sample("w", enum(dist.Bernoulli(0.5)))

    @objective
    def bound(flags: Tensor) -> Tensor:
        return summed_elbo(p, guide, flags)  # type: ignore[no-any-return]

    for flags in ([0.0, 0.0], [1.0, 1.0]):
        argument = torch.tensor(flags)
        expected = 0.0
        for z in (0, 1):
            for w in (0, 1):
                prior = (0.3 if z else 0.7) * (0.6 if w else 0.4)
                likelihood = 0.2 + 0.6 * (w if flags[0] else z)
                expected += 0.25 * (math.log(prior * likelihood) - math.log(0.25))
        assert float(bound(argument).surrogate()) == pytest.approx(expected)
