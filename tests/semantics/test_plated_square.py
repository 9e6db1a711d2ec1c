"""The agreement square on programs with plates: every meaning is that by hand, element by element.

The classes: programs that use the indices of a plate, that mask latents or scores in any way, in
which a site looks at other elements of a finite latent than those in its place, or in which a
chance is exactly 0 or 1.  Members mix them (see ``support.plated``).
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from support.plated import Plated, plated
from support.sizes import quick
from support.square import captured
from torch import Tensor

from pushforward import assess, condition, marginal, program, simulate, vmap, weighted
from pushforward.inference import Exact, importance, smc
from pushforward.ppl.errors import BudgetError, ZeroMassError
from pushforward.ppl.language import batching, effects
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")

TOLERANCE = 1e-9


def flat(value: Any) -> Any:
    """A tuple of tensors as nested numbers, in order."""
    return tuple(tuple(x.flatten().tolist()) for x in value)


def agree(member: Plated) -> None:
    p, known = program(member.program()), member.measure()
    mass = sum(known.values())
    if mass == 0:
        assert denote(p).mass() == 0
        return
    require(member, "denote", {flat(v): w for v, w in denote(p).items()}, known)
    require_density(member, p)
    observed = [site for site in member.sites if site.mask == "obs"]
    if not observed:
        if member.number % 4 == 0:
            require(member, "captured", by_capture(member, p), known)
        require_lanes(member, p)
        require_batched(member, p)
    require_elimination(member, p, known)
    algorithms = (importance(p, 1), smc(p, 1)) if member.number % 8 == 0 else ()
    for algorithm in algorithms:
        report = check.valid(algorithm, p)
        assert report.verdict == "pass", f"{member}: {report}"


def agree_on(numbers: range) -> None:
    for number in numbers:
        agree(plated(number))


def require(member: Plated, who: str, found: dict[Any, float], known: dict[Any, float]) -> None:
    for key in found.keys() | known.keys():
        gap = abs(found.get(key, 0.0) - known.get(key, 0.0))
        assert gap < TOLERANCE, f"{who} differs by {gap} at {key} from {member}"


def require_density(member: Plated, p: Any) -> None:
    """``assess`` at some joint values, those of probability zero too."""
    if any(site.mask == "obs" for site in member.sites):
        return  # what is not observed is a latent of its own
    for i, given in enumerate(member.assignments()):
        if i % 5:
            continue
        prior, likelihood = member.weights(given)
        log_density, _ = assess(p, member.values(given))
        assert abs(math.exp(float(log_density)) - prior * likelihood) < TOLERANCE, f"{member}"


def by_capture(member: Plated, p: Any) -> dict[Any, float]:
    try:
        found = captured(lambda: tuple(e for x in p() for e in x.flatten().unbind()), 512)
    except BudgetError:
        return member.measure()
    sizes = [len(member.indices(site)) for site in member.latents()]
    split: dict[Any, float] = {}
    for key, weight in found.items():
        numbers = iter(key if isinstance(key, tuple) else (key,))
        parts = tuple(tuple(float(next(numbers)) for _ in range(n)) for n in sizes)
        split[parts] = split.get(parts, 0.0) + weight
    return {key: weight for key, weight in split.items() if weight > 0}


def require_lanes(member: Plated, p: Any) -> None:
    """Of drawn particles in lanes: each weighs the likelihood of its own choices."""
    n = 24
    population = simulate(importance(p, n), seed=member.number).value
    for k in range(n):
        given = {
            (site.name, index): int(x)
            for site, values in zip(member.latents(), population.values, strict=True)
            for index, x in zip(member.indices(site), values[k].flatten().tolist(), strict=True)
        }
        _, likelihood = member.weights(given)
        weight = math.exp(float(population.log_weights[k])) * n
        assert abs(weight - likelihood) < TOLERANCE, f"a lane of {member} weighs {weight}"


def require_batched(member: Plated, p: Any) -> None:
    """The density of all joint values at once, in lanes; masks would hide what is given as data."""
    if any(site.mask != "none" for site in member.latents()):
        return
    every = list(itertools.islice(member.assignments(), 64))
    rows = [member.values(given) for given in every]
    if not rows[0]:
        return
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}

    def lane(*values: Tensor) -> Tensor:
        given = condition(p, dict(zip(stacked, values, strict=True)))
        return weighted(given)()[1]

    found = simulate(vmap(lane), *stacked.values()).value
    for given, log_weight in zip(every, found.tolist(), strict=True):
        prior, likelihood = member.weights(given)
        gap = abs(math.exp(log_weight) - prior * likelihood)
        assert gap < TOLERANCE, f"a lane of {member} at {given} is off by {gap}"


def require_elimination(member: Plated, p: Any, known: dict[Any, float]) -> None:
    if member.part is None or all("c" not in site.plates for site in member.sites):
        mass = sum(known.values())
        fit = Exact(draws=2).run(p)
        assert fit.log_evidence is not None and fit.marginals is not None
        assert abs(math.exp(fit.log_evidence) - mass) < TOLERANCE, f"Exact on {member}"
        for i, site in enumerate(member.latents()):
            ones = [0.0] * len(member.indices(site))
            for key, weight in known.items():
                ones = [a + weight * b / mass for a, b in zip(ones, key[i], strict=True)]
            found = fit.marginals[site.name][..., 1].flatten()
            torch.testing.assert_close(found, torch.tensor(ones), rtol=0, atol=TOLERANCE)
        assert abs(denote(marginal(p, exact=True)).mass() - mass) < TOLERANCE


@pytest.mark.parametrize("block", quick(2, range(6)))
def test_plates_masks_and_indices_mean_the_same_everywhere(block: int) -> None:
    agree_on(range(30 * block, 30 * block + 30))


@pytest.mark.slow
@pytest.mark.parametrize("block", range(40))
def test_many_plates_masks_and_indices(block: int) -> None:
    agree_on(range(3_000 + 50 * block, 3_050 + 50 * block))


def test_the_members_have_what_they_are_for() -> None:
    members = [plated(number) for number in range(1_000)]
    sites = [site for member in members for site in member.sites]
    assert sum(site.mask != "none" and site.data is None for site in sites) > 400
    assert sum(site.mask == "obs" for site in sites) > 50
    assert sum(site.look is not None and site.look.how != "aligned" for site in sites) > 250
    assert sum(site.hard != "no" and site.look is not None for site in sites) > 300
    assert sum(member.part is not None for member in members) > 150


def test_a_plate_that_draws_its_indices_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: lanes in which a full plate is shuffled."""
    backwards = lambda msg: torch.arange(msg["fn"].size).flip(0)  # noqa: E731
    monkeypatch.setattr(batching, "whole_indices", backwards)
    with pytest.raises(AssertionError):
        agree_on(range(40))


def test_masked_latents_that_count_nothing_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: masks that concern latents too."""
    monkeypatch.setattr(effects, "is_masked", lambda msg: True)
    with pytest.raises(AssertionError):
        agree_on(range(40))


def test_gradients_at_probability_zero_are_finite() -> None:
    """The log evidence of a member moves with a chance as by hand, also where others are 0 or 1."""
    from pushforward import dist, sample
    from pushforward.ppl.interpretations.log_density import LogDensity

    @program
    def survival() -> None:
        s = sample("s", dist.Uniform(0.0, 1.0))
        a = sample("a", dist.Bernoulli(s))
        b = sample("b", dist.Bernoulli(s * a))
        sample("y", dist.Bernoulli(b), obs=torch.tensor(0.0))

    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        u: Tensor = torch.tensor([0.4], requires_grad=True)
        value = LogDensity(marginal(survival, exact=True))(u)
        (gradient,) = torch.autograd.grad(value, u)
        s = u.detach().sigmoid()  # P(y) = 1 - s^2, and the Jacobian s (1 - s)
        expected = (-2 * s / (1 - s**2)) * s * (1 - s) + 1 - 2 * s
        torch.testing.assert_close(gradient, expected)


def test_impossible_data_are_said_to_be() -> None:
    from pushforward import dist, sample

    @program
    def never() -> None:
        x = sample("x", dist.Bernoulli(0.0))
        sample("y", dist.Bernoulli(x), obs=torch.tensor(1.0))

    with pytest.raises(ZeroMassError):
        Exact(draws=2).run(never)
