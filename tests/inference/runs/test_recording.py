"""What the driver SMC records: the sites of a trace of the program, under their names.

The class: programs with two scans, each in a stack of what renames sites, observes them, sets
them, masks them or repeats them.  Members are drawn.  A fit has the latents and the deterministic
sites that ``simulate`` shows, their means are those of exact elimination, and it can be predicted
from; or it is refused by name, where a filter runs steps that differ in what they choose.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import (
    condition,
    deterministic,
    dist,
    do,
    iterate,
    marginal,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    simulate,
    vmap,
)
from pushforward.errors import DataError, ProgramError
from pushforward.inference import (
    SMC,
    Exact,
    importance,
    log_likelihood,
    particle_filter,
    predict,
    recorded,
    smc,
)
from pushforward.inference.runs.recording import Recording
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")
Part = Callable[[], Any]
QUIET = {"compiled": False, "progress": False}
ISLANDS, PARTICLES = 30, 100
ALGORITHMS = (importance, particle_filter, smc)


def chain(i: int) -> Part:
    """Two steps of a chain, with sites of its own."""

    def step(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
        z = sample(f"z{i}", dist.Bernoulli(0.3 + 0.4 * c))
        w = sample(f"w{i}", dist.Bernoulli(0.2 + 0.6 * z))
        deterministic(f"d{i}", z + 2 * w)
        observe(f"y{i}", dist.Bernoulli(0.2 + 0.3 * z + 0.4 * w), y)
        return z, None

    return lambda: scan(step)(torch.tensor(0.0), torch.tensor([1.0, 0.0]))


def nested(i: int) -> Part:
    """Loops in a loop."""

    def inner(c: Tensor, _: Tensor) -> tuple[Tensor, None]:
        return sample(f"z{i}", dist.Bernoulli(0.3 + 0.4 * c)), None

    def step(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
        z, _ = scan(inner)(c, torch.zeros(2))
        w = sample(f"w{i}", dist.Bernoulli(0.2 + 0.6 * z))
        observe(f"y{i}", dist.Bernoulli(0.2 + 0.5 * w), y)
        return z, None

    return lambda: scan(step)(torch.tensor(0.0), torch.tensor([1.0, 0.0]))


def scoped(p: Part, i: int) -> Part:
    def run() -> Any:
        with scope("ab"[i]):
            return p()

    return run


def masked(p: Part, i: int) -> Part:
    def run() -> Any:
        with pyro.poutine.mask(mask=False):
            return p()

    return run


def plated(p: Part, i: int) -> Part:
    def run() -> Any:
        with plate(f"rows{i}", 2):
            return p()

    return run


NAMED: dict[str, Callable[[Part, int], Part]] = {  # these go by the names of sites
    "data": lambda p, i: condition(p, {f"w{i}": [1.0, 0.0]}),
    "a value": lambda p, i: do(p, {f"w{i}": torch.tensor([0.0, 1.0])}),
    "data of a step": lambda p, i: condition(p, {f"w{i}[1]": 1.0}),
    "a value of a step": lambda p, i: do(p, {f"w{i}[0]": 1.0}),
}
AROUND: dict[str, Callable[[Part, int], Part]] = {
    "a scope": scoped,
    "a mask": masked,
    "a plate": plated,
    "a call": lambda p, i: program(p),
    "lanes": lambda p, i: lambda: vmap(lambda: p()[0], size=2)(),
}


def member(number: int) -> tuple[Any, str, bool]:
    """A program, what it is, and whether a filter can record it."""
    numbers = random.Random(number)

    def part(i: int) -> tuple[Part, list[str]]:
        made, wraps = numbers.choice([chain, nested])(i), []
        if numbers.random() < 0.7:
            wraps.append(numbers.choice(sorted(NAMED)))
        around = [name for name in sorted(AROUND) if i or name != "lanes"]
        wraps += numbers.sample(around, numbers.randint(0, 2))
        if {"a plate", "lanes"} <= set(wraps):
            wraps.remove("lanes")
        if {"a plate", "lanes"} & set(wraps):
            wraps = [w for w in wraps if w not in ("data", "a value")]  # of one shape for all rows
        for wrap in wraps:
            made = {**NAMED, **AROUND}[wrap](made, i)
        return made, wraps

    (first, inside), (second, inside_second) = part(0), part(1)

    def model() -> Any:
        sample("before", dist.Bernoulli(0.3))
        first()
        return second()

    whole = not any("of a step" in wrap for wrap in inside)
    return program(model), f"member {number}: {inside}, {inside_second}", whole


def require_recorded(number: int) -> None:
    p, what, filtered = member(number)
    trace, exact = simulate(p, seed=number), Exact(draws=2).run(p).marginals
    assert exact is not None
    for algorithm in ALGORITHMS:
        driver = SMC(PARTICLES, ISLANDS, algorithm, **QUIET)  # type: ignore[arg-type]
        if algorithm is particle_filter and not filtered:
            with pytest.raises(ProgramError, match="different structures"):
                driver.run(p, seed=number)
            continue
        fit = driver.run(p, seed=number)
        assert set(fit.latents) == trace.choices.keys(), f"{what} by {fit.method}"
        assert fit.draws.keys() == trace.choices.keys() | trace.derived.keys(), what
        for name, value in trace.choices.items():
            assert fit[name].shape[2:] == value.shape, f"{name} of {what}"
            means = fit[name].mean(1)
            error = means.std(0) / ISLANDS**0.5 + 1 / PARTICLES
            gap = (means.mean(0) - exact[name][..., 1]).abs()
            assert bool((gap < 4.5 * error).all()), f"{name} of {what} by {fit.method}: {gap}"
        assert predict(fit, p).sites.keys() >= trace.observed.keys(), what
        assert log_likelihood(fit, p).keys() == trace.observed.keys(), what


@pytest.mark.parametrize("block", quick(2, range(4)))
def test_fits_have_the_sites_of_a_trace(block: int) -> None:
    """Level 1e-5 for each mean, within the bias of as many particles."""
    for number in range(3 * block, 3 * block + 3):
        require_recorded(number)


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_many_fits_have_the_sites_of_a_trace(block: int) -> None:
    for number in range(1_000 + 5 * block, 1_005 + 5 * block):
        require_recorded(number)


def test_the_members_have_what_they_are_for() -> None:
    texts = [member(number)[1] for number in range(200)]
    for wrap in (*NAMED, *AROUND):
        assert sum(f"'{wrap}'" in text for text in texts) > 10


def test_sites_that_are_named_too_early_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: names without the scopes that stand around the loops."""
    marked = Recording.mark
    bare = lambda self, msg, what: marked(self, msg, what.replace("a/", "").replace("b/", ""))  # noqa: E731
    monkeypatch.setattr(Recording, "mark", bare)
    number = next(n for n in range(100) if "a scope" in member(n)[1])
    with pytest.raises(AssertionError):
        require_recorded(number)


def test_the_same_site_in_two_scopes() -> None:
    def p() -> None:
        for prefix in "ab":
            with scope(prefix):
                scan(lambda c, x: (sample("z", dist.Normal(c, 1.0)), x))(
                    torch.tensor(0.0), torch.zeros(2)
                )

    for algorithm in ALGORITHMS:
        fit = SMC(4, 2, algorithm, **QUIET).run(p)  # type: ignore[arg-type]
        assert sorted(fit.latents) == ["a/z[0]", "a/z[1]", "b/z[0]", "b/z[1]"]


def test_a_loop_in_a_loop_has_two_numbers() -> None:
    def p() -> None:
        def step(c: Tensor, x: Tensor) -> tuple[Tensor, None]:
            return iterate(lambda c: sample("z", dist.Normal(c, 1.0)), 2)(c), None

        scan(step)(torch.tensor(0.0), torch.zeros(3))

    fit = SMC(4, 2, particle_filter, **QUIET).run(p)  # type: ignore[arg-type]
    assert fit["z[2]"].shape == (2, 4, 2)
    assert fit["z"].shape == (2, 4, 3, 2)
    assert torch.equal(fit["z"][:, :, 1, 0], fit["z[1][0]"])
    with pytest.raises(DataError, match="no site 'x'"):
        fit["x"]


def test_what_is_kept_of_a_scan_is_recorded() -> None:
    def p() -> Any:
        return marginal(chain(0), ["z0[0]", "z0[1]"])()

    for algorithm in ALGORITHMS:
        fit = SMC(4, 2, algorithm, **QUIET).run(p)  # type: ignore[arg-type]
        assert fit.latents == ("z0[0]", "z0[1]")


def test_a_recorded_program_is_the_program() -> None:
    p, _, _ = member(3)
    runs = denote(recorded(p))
    assert abs(runs.mass() - denote(p).mass()) < 1e-12
    assert {frozenset(run.choices) for run, _ in runs.items()} == {frozenset(simulate(p).choices)}
