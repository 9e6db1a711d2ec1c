"""Data of loops: each entry is for a step, and is met on some path, in every interpretation.

The class: programs whose loops stand in each other, in lanes, in plates and in branches, with data
that are given stacked.  Members are drawn; a wrong one has an axis that is too long or too short.
Where the data are right, every interpretation finds the number that is computed by hand; where they
are wrong, every one says so by the same error.
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import (
    assess,
    cond,
    condition,
    dist,
    generate,
    iterate,
    marginal,
    plate,
    program,
    sample,
    scan,
    scope,
    simulate,
    vmap,
)
from pushforward.errors import DataError, ProgramError
from pushforward.inference import SMC, Exact, importance, particle_filter, smc
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.language.coverage import Met
from pushforward.ppl.language.handlers import Taken
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")
TOLERANCE = 1e-9
ORDER = {"scan": 0, "iterate": 0, "vmap": 1, "plate": 2}  # of the axes of data


@dataclass(frozen=True)
class Nest:
    """A site in loops, lanes and plates, outermost first: their kinds and sizes."""

    site: str
    levels: tuple[tuple[str, int], ...]

    def axes(self) -> list[int]:
        """The levels that the axes of the data are for."""
        return sorted(range(len(self.levels)), key=lambda k: ORDER[self.levels[k][0]])

    def shape(self) -> list[int]:
        return [self.levels[k][1] for k in self.axes()]

    def chance(self, z: Any, at: Any) -> Any:
        """Of a one, where the levels stand at these places."""
        return torch.sigmoid(torch.as_tensor(z - 0.5 + sum(0.3 * (k + 1) * x for k, x in at)))

    def run(self, z: Tensor, level: int = 0, at: tuple[Any, ...] = ()) -> Tensor:
        if level == len(self.levels):
            return sample(self.site, dist.Bernoulli(self.chance(z, enumerate(at)))).sum()
        kind, size = self.levels[level]
        inner = lambda x: self.run(z, level + 1, (*at, x))  # noqa: E731
        if kind == "scan":
            return scan(lambda c, x: (c + inner(x), None))(torch.zeros(()), torch.arange(size))[0]
        if kind == "iterate":
            return iterate(lambda c: (c[0] + 1, c[1] + inner(c[0])), size)(
                (torch.tensor(0), torch.zeros(()))
            )[1]
        if kind == "vmap":
            return vmap(inner)(torch.arange(size)).sum()
        with plate(f"rows of {self.site}", size) as i:
            return inner(i)

    def log_likelihood(self, z: float, data: Tensor) -> float:
        """By hand, entry by entry."""
        total = 0.0
        for index in itertools.product(*map(range, self.shape())):
            places = zip(self.axes(), index, strict=True)
            chance = float(self.chance(z, places))
            total += math.log(chance if data[index] == 1 else 1 - chance)
        return total


@dataclass(frozen=True)
class Member:
    """``sites``: one after another, or one in each branch by the value of z."""

    sites: tuple[Nest, ...]
    branches: bool
    data: dict[str, Tensor]

    def program(self) -> Any:
        def model() -> Tensor:
            z = sample("z", dist.Bernoulli(0.3))
            runs: list[Callable[[], Tensor]] = [lambda n=n: n.run(z) for n in self.sites]
            if self.branches:
                return cond(z == 1, *runs)()
            return sum((run() for run in runs), z)

        return condition(program(model), self.data)

    def log_joint(self, z: int) -> float:
        sites = [self.sites[1 - z]] if self.branches else self.sites
        prior = math.log(0.3 if z else 0.7)
        return prior + sum(n.log_likelihood(z, self.data[n.site]) for n in sites)


def nest(numbers: random.Random, site: str) -> Nest:
    kinds = [numbers.choice(["scan", "scan", "iterate", "vmap"]) for _ in range(2)]
    if numbers.random() < 0.4:
        kinds.insert(numbers.randrange(3), "plate")
    return Nest(site, tuple((kind, numbers.choice([2, 3])) for kind in kinds))


def member(number: int) -> Member:
    numbers = random.Random(number)
    sites = tuple(nest(numbers, site) for site in ("y", "u")[: numbers.choice([1, 2])])
    torch.manual_seed(number)
    data = {n.site: torch.randint(2, n.shape()).double() for n in sites}
    return Member(sites, len(sites) == 2 and numbers.random() < 0.6, data)


def spoilt(right: Member, number: int) -> Member:
    """The member with an axis of some data too long or too short."""
    numbers = random.Random(number)
    site = numbers.choice(right.sites)
    axis = numbers.randrange(len(site.shape()))
    kind, size = site.levels[site.axes()[axis]]
    shape = site.shape()
    short = numbers.random() < 0.3 and (size > 2 or ORDER[kind] == 0)  # one row would be for all
    shape[axis] += -1 if short else numbers.choice([1, 2])
    return replace(right, data={**right.data, site.site: torch.zeros(shape)})


INTERPRETATIONS: dict[str, Callable[[Any], Any]] = {
    "denote": lambda p: {"evidence": denote(p).mass()},
    "assess": lambda p: {z: assess(p, {"z": torch.tensor(float(z))})[0] for z in (0, 1)},
    "generate": lambda p: {z: generate(p, {"z": torch.tensor(float(z))})[1] for z in (0, 1)},
    "simulate": lambda p: (lambda t: {int(t.choices["z"]): t.log_density})(simulate(p, seed=1)),
    "density": lambda p: {
        z: LogDensity(p, discrete={"z": torch.tensor(float(z))})(torch.zeros(0)) for z in (0, 1)
    },
    "type": lambda p: p.type() and {},
    "Exact": lambda p: {"evidence": math.exp(Exact(draws=1).run(p).log_evidence or 0.0)},
    "marginal": lambda p: {"evidence": assess(marginal(p, exact=True), {})[0].exp()},
    "importance": lambda p: {"evidence": expected(importance(p, 2))},
    "smc": lambda p: {"evidence": expected(smc(p, 1))},
    "particle_filter": lambda p: {"evidence": expected(particle_filter(p, 2))},
}


def expected(algorithm: Any) -> float:
    """The mean of an algorithm's evidence, exactly."""
    return float(denote(algorithm).expect(lambda runs: runs.log_evidence().exp()))


def require_right(number: int) -> None:
    given = member(number)
    known: dict[Any, float] = {z: given.log_joint(z) for z in (0, 1)}
    known["evidence"] = sum(math.exp(x) for x in known.values())
    for name, interpretation in INTERPRETATIONS.items():
        try:
            found = interpretation(given.program())
        except ProgramError as error:
            if name == "particle_filter" and "scan" in str(error):
                continue
            raise
        for key, value in found.items():
            assert abs(float(value) - known[key]) < TOLERANCE, f"{name} on {given}"


def require_refused(number: int) -> None:
    given = spoilt(member(number), number)
    for name, interpretation in INTERPRETATIONS.items():
        assert is_refused(interpretation, given.program()), f"{name} takes {given}"


def is_refused(interpretation: Callable[[Any], Any], p: Any) -> bool:
    try:
        interpretation(p)
    except DataError as error:
        return re.search(r"and no entry|no step meets|do not fit", str(error)) is not None
    return False


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_data_that_fit_mean_the_same_everywhere(block: int) -> None:
    for number in range(5 * block, 5 * block + 5):
        require_right(number)


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_data_that_do_not_fit_are_refused_everywhere(block: int) -> None:
    for number in range(15 * block, 15 * block + 15):
        require_refused(number)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_data_of_loops(block: int) -> None:
    for number in range(1_000 + 20 * block, 1_020 + 20 * block):
        require_right(number)
        require_refused(number)


def test_entries_that_are_not_looked_at_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: data of which only the names are looked at."""
    monkeypatch.setattr(Met, "unmet", lambda met: {})
    too_long = condition(steps, {"y": [1.0, 0.0, 1.0]})
    assert not is_refused(lambda p: denote(p, 2), too_long)
    monkeypatch.undo()
    assert is_refused(lambda p: denote(p, 2), too_long)


def test_data_that_count_in_both_branches_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: branches that forget which sites were theirs."""
    passed = Taken._process_message

    def forgetful(handler: Taken, msg: Any) -> None:
        passed(handler, msg)
        msg["infer"].pop("taken", None)

    monkeypatch.setattr(Taken, "_process_message", forgetful)
    number = next(n for n in itertools.count() if member(n).branches)
    with pytest.raises(AssertionError, match="Exact"):
        require_right(number)


# ---------------------------------------------------------------------------- loops that stop early


def stopping(n: int) -> Any:
    """A loop of at most n steps, which stops after one if z is one."""

    @program
    def p() -> Tensor:
        z = sample("z", dist.Bernoulli(0.3))

        def step(carry: Tensor) -> Tensor:
            sample("y", dist.Bernoulli(0.2 + 0.5 * z))
            return carry + 1

        return iterate(step, n, until=lambda c: (z == 1) & (c >= 1))(torch.tensor(0))

    return p


def test_a_loop_may_stop_before_its_data_end() -> None:
    p = condition(stopping(2), {"y": [1.0, 0.0]})
    assert abs(denote(p).mass() - (0.3 * 0.7 + 0.7 * 0.2 * 0.8)) < TOLERANCE
    one, zero = torch.tensor(1.0), torch.tensor(0.0)
    assert abs(float(assess(p, {"z": one})[0].exp()) - 0.3 * 0.7) < TOLERANCE
    assert abs(float(assess(p, {"z": zero})[0].exp()) - 0.7 * 0.2 * 0.8) < TOLERANCE
    too_long = condition(stopping(2), {"y": [1.0, 0.0, 0.0]})
    for z in (one, zero):
        with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
            assess(too_long, {"z": z})
    for name in ("denote", "simulate"):
        with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
            INTERPRETATIONS[name](too_long)


def test_data_may_end_with_all_the_runs() -> None:
    """A loop that may go on stops on each path before data are missing."""

    @program
    def p() -> Tensor:
        step = lambda c: c + 1 + 0 * sample("y", dist.Bernoulli(0.4)).long()  # noqa: E731
        return iterate(step, 50, until=lambda c: c >= 2)(torch.tensor(0))

    assert abs(denote(condition(p, {"y": [1.0, 0.0]})).mass() - 0.24) < TOLERANCE


# ----------------------------------------------------------------------------- where data are given


def steps(n: int) -> None:
    step = lambda c, _: (sample("y", dist.Bernoulli(0.4)), None)  # noqa: E731
    scan(step)(torch.tensor(0.0), torch.zeros(n))


def data_inside(first: int, second: int) -> Any:
    """Two loops of a program, each with data of two entries that it gives itself."""

    @program
    def p() -> None:
        given = condition(steps, {"y": [1.0, 0.0]})
        with scope("a"):
            given(first)
        with scope("b"):
            given(second)

    return p


def given_twice(n: int) -> Any:
    """Data inside data: the inner ones have two entries."""

    @program
    def p() -> None:
        sample("x", dist.Bernoulli(0.5))
        steps(n)

    return condition(condition(p, {"y": [1.0, 0.0]}), {"x": 1.0})


@pytest.mark.parametrize("name", ["denote", "simulate", "type", "Exact", "importance", "smc"])
def test_data_are_looked_at_wherever_they_are_given(name: str) -> None:
    run = INTERPRETATIONS[name] if name != "simulate" else simulate
    for wrong in (data_inside(2, 1), data_inside(1, 2), given_twice(1)):
        with pytest.raises(DataError, match=r"no step meets entry \[1\]"):
            run(wrong)
    run(data_inside(2, 2))
    run(given_twice(2))


def test_what_an_earlier_run_met_is_not_counted() -> None:
    p = condition(steps, {"y": [1.0, 0.0, 1.0]})
    simulate(p, 3)
    for run in (simulate, denote):
        with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
            run(p, 2)


def test_data_for_one_step_take_the_place_of_no_other_data() -> None:
    both = condition(steps, {"y": [1.0, 0.0], "y[0]": 1.0})
    with pytest.raises(DataError, match=r"no step meets entry \[0\]"):
        both.type(2)


def test_impossible_data_are_not_taken_for_data_of_no_step() -> None:
    @program
    def p() -> None:
        step = lambda c, x: (sample("y", dist.Bernoulli(x)), None)  # noqa: E731
        scan(step)(torch.tensor(0.0), torch.tensor([0.0, 0.5]))

    assert denote(condition(p, {"y": [1.0, 1.0]})).mass() == 0.0


def test_driven_by_a_filter() -> None:
    @program
    def p() -> None:
        def step(c: Tensor, _: Tensor) -> Any:
            z = sample("z", dist.Normal(c, 1.0))
            sample("y", dist.Normal(z, 1.0))
            return z, None

        scan(step)(torch.tensor(0.0), torch.zeros(2))

    for algorithm in (smc, particle_filter, importance):
        driver = SMC(10, 1, algorithm, compiled=False, progress=False)
        driver.run(condition(p, {"y": [1.0, 2.0]}))
        with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
            driver.run(condition(p, {"y": [1.0, 2.0, 3.0]}))


@pytest.mark.parametrize("name", ["denote", "simulate", "importance", "smc"])
def test_programs_without_a_type_are_held_to_their_loops(name: str) -> None:
    def step(c: Tensor, _: Tensor) -> tuple[Tensor, None]:
        z = sample("z", dist.Bernoulli(0.3 + 0.4 * c))
        sample("y", dist.Bernoulli(0.8 if z == 1 else 0.2))  # a Python branch: it has no type
        return z, None

    def p() -> None:
        scan(step)(torch.tensor(0.0), torch.zeros(2))

    run = INTERPRETATIONS[name] if name != "simulate" else simulate
    run(condition(p, {"y": [1.0, 0.0]}))
    with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
        run(condition(p, {"y": [1.0, 0.0, 1.0]}))


def test_loops_of_two_branches_may_differ() -> None:
    def p() -> None:
        steps(2 if sample("z", dist.Bernoulli(0.5)) == 1 else 3)

    right = condition(p, {"y": [1.0, 0.0, 1.0]})
    assert abs(denote(right).mass() - 0.5 * (0.24 + 0.24 * 0.4)) < TOLERANCE
    for seed in range(4):
        simulate(right, seed=seed)


def test_data_given_in_a_step_may_be_met_in_some_steps() -> None:
    @program
    def p() -> None:
        def step(c: Tensor) -> Tensor:
            here = lambda: sample("y", dist.Bernoulli(0.4))  # noqa: E731
            given = condition(lambda: cond(c < 1, here, lambda: torch.tensor(0.0))(), {"y": 1.0})
            given()
            return c + 1

        iterate(step, 3)(torch.tensor(0))

    for found in (denote(p).mass(), float(assess(p, {})[0].exp())):
        assert abs(found - 0.4) < TOLERANCE
