"""Programs around a scan: a particle filter holds all that comes before it, or refuses by name.

The class: programs with a scan, of which a run remembers more across the scan than named choices
and the carry.  Members are drawn: what comes before (choices, draws, scores, subsampled plates,
marginals, queries by particles, loops, calls, random functions), what the scan stands in (data,
interventions, marginals, scopes, masks, scales, branches, lanes, recursion, queries, weighing) and
what comes after.  The filter is compared, exactly, with the measure of the program.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import (
    cond,
    condition,
    dist,
    do,
    draw,
    factor,
    fix,
    iterate,
    marginal,
    memo,
    normalize,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    vmap,
    weighted,
)
from pushforward.errors import ProgramError
from pushforward.inference import importance, particle_filter, smc
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")
Part = Callable[[], Tensor]


def bernoulli(p: Any) -> Any:
    return dist.Bernoulli(torch.as_tensor(p))


# ------------------------------------------------------------------------------------------- before


def chosen() -> Tensor:
    return sample("before", bernoulli(0.3))


def drawn() -> Tensor:
    return draw(bernoulli(0.4))


def scored() -> Tensor:
    x = sample("scored", bernoulli(0.5))
    observe("seen", bernoulli(0.2 + 0.5 * x), torch.tensor(1.0))
    return x


def weighed() -> Tensor:
    value, log_weight = weighted(scored)()
    return value * log_weight.exp()


def subsampled() -> Tensor:
    with plate("rows", 3, subsample_size=1) as i:
        return torch.tensor([0.1, 0.5, 0.9])[i].sum()


def whole() -> Tensor:
    with plate("all", 2) as i:
        x = sample("each", bernoulli(torch.tensor([0.2, 0.7])[i]))
    return x.sum() / 2


def kept() -> Tensor:
    def prior() -> Tensor:
        return sample("k", bernoulli(0.5)) + 0 * sample("j", bernoulli(0.5))

    return marginal(prior, ["j"])()


def queried() -> Tensor:
    return torch.as_tensor(normalize(scored, particles=2)())


def looped() -> Tensor:
    return iterate(lambda x: sample("l", bernoulli(0.2 + 0.5 * x)), 2)(torch.tensor(0.0))


@program
def called() -> Tensor:
    return sample("called", bernoulli(0.6)) * draw(bernoulli(0.5))


BEFORE: dict[str, Part] = {
    f.__name__: f
    for f in (chosen, drawn, scored, weighed, subsampled, whole, kept, queried, looped)
}
BEFORE["called"] = called

# ------------------------------------------------------------------------------------------- around


def chain(p: Tensor) -> Part:
    def run() -> Tensor:
        def step(s: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
            s = sample("s", bernoulli(0.2 + 0.3 * s + 0.4 * p))
            factor("f", torch.where(s == 1, 2 / 3, 1 / 3).log() * x)
            return s, s + 0.1 * p

        return scan(step)(torch.tensor(0.0), torch.tensor([1.0, 2.0]))[1]

    return run


def masked(p: Part) -> Tensor:
    with pyro.poutine.mask(mask=False):
        return p()


def scaled(p: Part) -> Tensor:
    with pyro.poutine.scale(scale=0.5):
        return p()


def scoped(p: Part) -> Tensor:
    with scope("inner"):
        return p()


HELD: dict[str, Callable[[Part], Tensor]] = {
    "nothing": lambda p: p(),
    "data": lambda p: condition(p, {"s[1]": torch.tensor(1.0)})(),
    "an intervention": lambda p: do(p, {"s[0]": torch.tensor(1.0)})(),
    "a marginal": lambda p: marginal(p, ["s[0]"])(),
    "a scope": scoped,
    "a mask": masked,
    "a scale": scaled,
    "a call": lambda p: program(p)(),
}
REFUSED: dict[str, Callable[[Part], Tensor]] = {
    "weighing": lambda p: (lambda v, w: v * w.exp())(*weighted(p)()),
    "a branch": lambda p: cond(sample("b", bernoulli(0.5)) == 1, p, lambda: torch.zeros(2))(),
    "lanes": lambda p: vmap(p, size=2)(),
    "recursion": lambda p: fix(lambda again, x: p())(torch.zeros(())),
    "a query": lambda p: torch.as_tensor(normalize(p, particles=2)()),
}

# -------------------------------------------------------------------------------------------- after


def scored_after(x: Tensor) -> Tensor:
    factor("after", 0.3 * x)
    return x


AFTER: dict[str, Callable[[Tensor], Tensor]] = {
    "nothing": lambda x: x,
    "a score": scored_after,
    "a choice": lambda x: x + sample("late", bernoulli(0.1 + 0.3 * x.clamp(0, 1))),
    "a draw": lambda x: x * draw(bernoulli(0.5)),
}


def member(number: int, around: dict[str, Any]) -> tuple[Any, str]:
    numbers = random.Random(number)
    before = numbers.sample(sorted(BEFORE), numbers.randint(0, 2))
    wraps = [numbers.choice(sorted(around)), *numbers.sample(sorted(HELD), numbers.randint(0, 1))]
    if "scored" in before and ("weighed" in before or "queried" in before):
        before = before[:1]  # they share names of sites
    if {"a scope", "a marginal"} & set(wraps):
        wraps = wraps[:1]  # the others go by the names of sites
    wraps = list(dict.fromkeys(wraps))  # no site is given or set twice
    after = numbers.choice(sorted(AFTER))

    @program
    def p() -> Tensor:
        level = torch.zeros(())
        for name in before:
            level = level + BEFORE[name]() / 2
        run = chain(level)
        for wrap in reversed(wraps):
            run = (lambda inner, w=wrap: lambda: ({**HELD, **around})[w](inner))(run)
        return AFTER[after](run().sum())

    return p, f"{before} before, in {wraps}, {after} after"


def require_valid(number: int) -> None:
    p, what = member(number, HELD)
    costly = any(name in what for name in ("queried", "subsampled", "weighed", "kept"))
    particles = 1 if costly or what.count("'") > 2 else 2
    report = check.valid(particle_filter(p, particles), p, budget=400_000)
    assert report.verdict == "pass", f"{what}: {report}"


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_a_filter_holds_what_comes_before_its_scan(block: int) -> None:
    for number in range(8 * block, 8 * block + 8):
        require_valid(number)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_programs_around_scans(block: int) -> None:
    for number in range(1_000 + 50 * block, 1_050 + 50 * block):
        require_valid(number)


@pytest.mark.parametrize("wrap", REFUSED)
@pytest.mark.parametrize("number", range(2))
def test_what_no_particle_holds_is_refused_by_name(wrap: str, number: int) -> None:
    p, what = member(number, {wrap: REFUSED[wrap]})
    with pytest.raises(ProgramError, match=r"the scan lies inside|has it inside"):
        denote(particle_filter(p, 2))
    assert denote(p).mass() > 0, what


def test_a_random_function_before_the_scan_is_refused() -> None:
    def p() -> Tensor:
        f = memo(lambda n: sample("v", bernoulli(1 / 3)), "f")

        def step(c: Tensor, _: Tensor) -> tuple[Tensor, Tensor]:
            x = f(0)
            factor("h", torch.where(x == 1, 0.5, 1.0).log())
            return c, x

        return scan(step)(torch.tensor(0.0), torch.zeros(2))[1]

    with pytest.raises(ProgramError, match="random function"):
        denote(particle_filter(p, 2))
    for algorithm in (smc(p, 2), importance(p, 2)):
        assert check.valid(algorithm, p).verdict == "pass"


def test_a_draw_that_is_made_anew_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a filter that does not hold the draws."""
    module = importlib.import_module("pushforward.inference.smc.filtering")
    monkeypatch.setattr(module, "is_draw", lambda msg: False)

    @program
    def p() -> Tensor:
        level = drawn()
        return torch.cat([chain(level)(), level.reshape(1)])

    assert check.valid(particle_filter(p, 2), p).verdict == "fail"
