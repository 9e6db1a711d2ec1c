"""Proof one: on every nesting of handlers, the merging evaluator agrees with naive enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import pyro.distributions as dist
import pytest
import torch
from pyro.poutine.messenger import Messenger
from support.sizes import quick
from torch import Tensor

from pushforward.errors import ImpureProgramError
from pushforward.ppl import (
    cond,
    condition,
    factor,
    iterate,
    observe,
    plate,
    program,
    sample,
    scan,
    vmap,
    weighted,
)
from pushforward.ppl.language.handlers import Handler
from pushforward.semantics import denote

TOLERANCE = 1e-12
START = torch.tensor(0.5, dtype=torch.float64)


@dataclass(frozen=True)
class Nest:
    """A program from number to number, and the latent sites that it may meet."""

    run: Callable[[Tensor], Tensor]
    sites: tuple[str, ...] = ("x",)
    lanes: tuple[int, ...] = ()
    plates: tuple[int, ...] = ()


def two_sites(c: Tensor) -> Tensor:
    x = sample("x", dist.Bernoulli(0.2 + 0.5 * c.clamp(0, 1)))
    observe("y", dist.Bernoulli(0.3 + 0.4 * x), torch.ones_like(x))
    return x


def weighing(p: Nest, level: int) -> Nest:
    def run(c: Tensor) -> Tensor:
        value, log_weight = weighted(p.run)(c)
        factor(f"half{level}", 0.5 * log_weight)
        return value

    return Nest(run, p.sites, p.lanes, p.plates)


def conditioning(p: Nest, level: int) -> Nest:
    if not p.sites:
        return p
    shape = (*p.lanes, *p.plates)
    data = (torch.arange(max(1, torch.Size(shape).numel())).reshape(shape) % 2).to(torch.float64)
    return Nest(condition(p.run, {p.sites[-1]: data}), p.sites[:-1], p.lanes, p.plates)


def subsampling(p: Nest, level: int) -> Nest:
    def run(c: Tensor) -> Tensor:
        with plate(f"plate{level}", 2, subsample_size=1) as index:
            value = p.run(c + 0.1 * index.sum())
        return value.reshape(-1).mean()

    return Nest(run, p.sites, p.lanes, (1, *p.plates))


def lanes(p: Nest, level: int) -> Nest:
    def run(c: Tensor) -> Tensor:
        values = vmap(p.run)(c + torch.tensor([0.0, 0.2], dtype=torch.float64))
        return (values.reshape(2, -1).mean(1) * torch.tensor([0.25, 0.75])).sum()

    return Nest(run, p.sites, (2, *p.lanes), p.plates)


def iterating(p: Nest, level: int) -> Nest:
    def run(c: Tensor) -> Tensor:
        return iterate(lambda c: p.run(c).reshape(-1).mean(), 2)(c)

    return Nest(run, _indexed(p.sites), p.lanes, p.plates)


def scanning(p: Nest, level: int) -> Nest:
    def step(c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        return p.run(c + x).reshape(-1).mean(), c

    def run(c: Tensor) -> Tensor:
        carry, before = scan(step)(c, torch.tensor([0.0, 0.1], dtype=torch.float64))
        return carry + 0.1 * before.sum()

    return Nest(run, _indexed(p.sites), p.lanes, p.plates)


def branching(p: Nest, level: int) -> Nest:
    def other(c: Tensor) -> Tensor:
        z = sample(f"z{level}", dist.Bernoulli(torch.tensor(0.75, dtype=torch.float64)))
        factor(f"f{level}", torch.log(0.5 + 0.25 * z).sum())
        return z.reshape(-1).mean()

    def run(c: Tensor) -> Tensor:
        return cond(c > 0.3, lambda c: p.run(c).reshape(-1).mean(), other)(c)

    return Nest(run, p.sites, p.lanes, p.plates)


def _indexed(sites: tuple[str, ...]) -> tuple[str, ...]:
    """The names of sites once inside a loop of two steps (an outer loop's index comes first)."""
    names = []
    for t, site in itertools.product(range(2), sites):
        base, bracket, index = site.partition("[")
        names.append(f"{base}[{t}]{bracket}{index}")
    return tuple(names)


WRAPPERS = {
    "weighted": weighing,
    "condition": conditioning,
    "subsample": subsampling,
    "vmap": lanes,
    "iterate": iterating,
    "scan": scanning,
    "cond": branching,
}


def nest(kinds: tuple[str, ...]) -> Nest:
    p = Nest(two_sites)
    for level, kind in enumerate(reversed(kinds)):
        p = WRAPPERS[kind](p, level)
    return p


def assert_merging_is_exact(kinds: tuple[str, ...]) -> None:
    p = nest(kinds)
    merged, naive = denote(p.run, START), denote(p.run, START, merge=False)
    gap, where = merged.deviation(naive)
    assert naive.mass() > 0
    assert gap <= TOLERANCE, f"{' '.join(kinds)}: {gap} at {where}"


@pytest.mark.parametrize("outer", WRAPPERS)
def test_depth_two(outer: str) -> None:
    for inner in WRAPPERS:
        assert_merging_is_exact((outer, inner))


@pytest.mark.parametrize("part", quick(1, range(3)))
@pytest.mark.parametrize("outer", WRAPPERS)
@pytest.mark.parametrize("middle", WRAPPERS)
def test_depth_three(outer: str, middle: str, part: int) -> None:
    """Each part has every wrapper directly inside and around every other."""
    kinds = list(WRAPPERS)
    at = kinds.index(outer) + kinds.index(middle)
    for i, inner in enumerate(kinds):
        if (at + i) % 3 == part:
            assert_merging_is_exact((outer, middle, inner))


class AllLanesAtOnce(Handler):
    """A handler that does nothing, but only understands batched messages."""

    lane_wise = False


@pytest.mark.parametrize("inner", WRAPPERS)
def test_batched_lanes_agree_with_the_product_of_lanes(inner: str) -> None:
    """The sampling rule of vmap (one batched site) and its exact rule denote the same measure."""
    for kinds in [("vmap", inner), ("vmap", "vmap", inner), ("weighted", "vmap", inner)]:
        p = nest(kinds)

        def batched(c: Tensor, p: Nest = p) -> Tensor:
            with AllLanesAtOnce():
                return p.run(c)

        gap, where = denote(batched, START).deviation(denote(p.run, START))
        assert gap <= TOLERANCE, f"{kinds}: {gap} at {where}"


class Absorbing(Messenger):  # type: ignore[misc]
    """A handler of someone else: it keeps the scores inside it, and cannot tell its state."""

    def __enter__(self) -> Messenger:
        self.total = torch.zeros((), dtype=torch.float64)
        return super().__enter__()

    def _process_message(self, msg: dict) -> None:  # type: ignore[type-arg]
        if msg["type"] == "sample" and msg["is_observed"]:
            self.total = self.total + msg["fn"].log_prob(msg["value"]).sum()
            msg["type"] = "absorbed"


class Forgetful(Absorbing, Handler):
    """A wrong handler: it claims to have no state."""


def around_a_loop(handler: Messenger) -> Callable[[Tensor], Tensor]:
    def p(c: Tensor) -> Tensor:
        with handler:
            value = iterate(two_sites, 2)(c)
        factor("back", handler.total)
        return value

    return p


def test_merging_is_off_below_a_handler_without_state() -> None:
    p = around_a_loop(Absorbing())
    merged, naive = denote(p, START), denote(p, START, merge=False)
    assert merged.deviation(naive)[0] <= TOLERANCE
    assert merged.notes == ("loop not merged: Absorbing has no state()",)


def test_a_handler_that_hides_its_state_is_refused() -> None:
    """Negative control: with merging below it, the replays of such a program differ."""
    with pytest.raises(ImpureProgramError):
        denote(around_a_loop(Forgetful()), START)


# --------------------------------------------------------------------------------- impure programs

COUNTER = itertools.count()


@program
def counts_in_its_parameter() -> Tensor:
    sample("a", dist.Bernoulli(0.5))
    return sample("b", dist.Bernoulli(torch.tensor(1.0 / (2 + next(COUNTER)))))


@program
def counts_in_its_result() -> Tensor:
    return sample("a", dist.Bernoulli(0.5)) + next(COUNTER)


@program
def counts_in_its_weight() -> Tensor:
    factor("f", -float(next(COUNTER)))
    return sample("a", dist.Bernoulli(0.5))


@program
def draws_from_torch() -> Tensor:
    return sample("a", dist.Bernoulli(0.5)) + 0 * torch.rand(())


@program
def changes_its_argument() -> Tensor:
    state = torch.zeros(())

    def step(carry: Tensor) -> Tensor:
        carry += sample("a", dist.Bernoulli(0.5))
        return carry

    return iterate(step, 2)(state)


@program
def changes_a_site_name() -> Tensor:
    sample("a", dist.Bernoulli(0.5))
    return sample(f"b{next(COUNTER)}", dist.Bernoulli(0.5))


@pytest.mark.parametrize(
    "impure",
    [
        counts_in_its_parameter,
        counts_in_its_result,
        counts_in_its_weight,
        draws_from_torch,
        changes_a_site_name,
    ],
    ids=lambda p: p.name,
)
@pytest.mark.parametrize("merge", [True, False])
def test_impure_programs_are_refused(impure: Callable[[], Tensor], merge: bool) -> None:
    with pytest.raises(ImpureProgramError, match=r"impure|outside its effects"):
        denote(impure, merge=merge)


def test_changing_an_argument_in_place_is_refused() -> None:
    with pytest.raises(ImpureProgramError, match="in place"):
        denote(changes_its_argument)


def test_a_pure_program_with_local_state_is_accepted() -> None:
    @program
    def pure() -> Tensor:
        seen = []
        for i in range(3):
            seen.append(sample(f"a{i}", dist.Bernoulli(0.5)))
        return torch.stack(seen).sum()

    assert denote(pure).pmf() == pytest.approx({0.0: 1 / 8, 1.0: 3 / 8, 2.0: 3 / 8, 3.0: 1 / 8})
