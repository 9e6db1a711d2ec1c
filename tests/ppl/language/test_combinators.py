"""Every combinator in every interpretation: the value by hand, or a refusal by name.

Each combinator has a finite program, given with all its traces, and a continuous one, given with
its density at a point, its mass and its mean; all figures are by hand.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction as F
from typing import Any

import pytest
import torch
from support.square import captured
from torch import Tensor

from pushforward import (
    assess,
    cond,
    condition,
    dist,
    do,
    factor,
    fix,
    generate,
    iterate,
    marginal,
    memo,
    mixture,
    normalize,
    observe,
    ppl,
    program,
    sample,
    scan,
    scope,
    simulate,
    switch,
    vmap,
)
from pushforward.ppl.errors import BranchError, DataError, NoDensityError, PushforwardError
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture
from pushforward.semantics import denote
from pushforward.semantics.evaluation.measure import readable

Choices = dict[str, Any]
Atom = tuple[Choices, F, float]  # choices, their density, the result


pytestmark = pytest.mark.usefixtures("double")


def flip(name: str, p: Any) -> Tensor:
    return sample(name, dist.Bernoulli(p))


def likely(by: float, where: Tensor) -> None:
    """Multiply the weight by a number where a truth value is one."""
    factor("f", math.log(by) * where)


def seen(loc: Any, name: str = "x") -> Tensor:
    """A latent about ``loc``, of which 0 is observed with noise one."""
    x = sample(name, dist.Normal(loc, 1.0))
    observe(f"{name}_seen", dist.Normal(x, 1.0), torch.tensor(0.0))
    return x


def at(loc: float, x: float) -> float:
    """The log density of ``seen`` at x."""
    return -0.5 * ((x - loc) ** 2 + x**2) - math.log(2 * math.pi)


def mass(loc: float) -> float:
    """The mass of ``seen``: the density of Normal(loc, sqrt 2) at 0.  Its mean is loc / 2."""
    return math.exp(-(loc**2) / 4) / math.sqrt(4 * math.pi)


@dataclass(frozen=True)
class Case:
    """A combinator in a finite and a continuous program, and all that is known of them by hand.

    given: some choices, and the weight of a run to which they are given, for each of its values.
    smooth: a program of latents that are real; point: their values, in order, and the log density
    there; mass and mean: of its result (the mean is that of the normalised measure).
    refuses: the errors of the interpretations that cannot be; ``capture`` and ``vmap`` may lie in
    the finite program alone.
    """

    p: Callable[[], Any]
    atoms: list[Atom]
    given: Choices
    weights: dict[float, F]
    type: str
    smooth: Callable[[], Any]
    point: tuple[list[float], float]
    mass: float
    mean: float
    refuses: dict[str, tuple[type[PushforwardError], str]] = field(default_factory=dict)

    def law(self) -> dict[float, F]:
        """The mass of each result."""
        total: dict[float, F] = {}
        for _, weight, value in self.atoms:
            total[value] = total.get(value, F(0)) + weight
        return total


# --------------------------------------------------------------------------------------- programs


def lanes() -> Any:
    def lane(p: Tensor) -> Tensor:
        x = flip("x", p)
        likely(0.5, x)
        return x

    return vmap(lane)(torch.tensor([0.25, 0.5])).sum()


LANES = Case(
    lanes,
    [
        ({"x": [0, 0]}, F(3, 8), 0),
        ({"x": [0, 1]}, F(3, 16), 1),
        ({"x": [1, 0]}, F(1, 16), 1),
        ({"x": [1, 1]}, F(1, 32), 2),
    ],
    {"x": [1, 0]},
    {1: F(1, 16)},
    "{x: Bool[2]} -> M Real",
    lambda: vmap(seen)(torch.tensor([1.0, 2.0])).sum(),
    ([0.5, 1.5], at(1.0, 0.5) + at(2.0, 1.5)),
    mass(1.0) * mass(2.0),
    1.5,
)


def chain(z: Tensor, _: Any = None) -> Any:
    """A state that stays with probability 3/4, seen as one with probability 1/2 or 3/4."""
    z = flip("z", 0.25 + 0.5 * z)
    observe("y", dist.Bernoulli(0.5 + 0.25 * z), torch.tensor(1.0))
    return z


SEEN_CHAIN = [
    ({"z[0]": 0, "z[1]": 0}, F(9, 64), 0),
    ({"z[0]": 0, "z[1]": 1}, F(9, 128), 1),
    ({"z[0]": 1, "z[1]": 0}, F(3, 128), 1),
    ({"z[0]": 1, "z[1]": 1}, F(27, 256), 2),
]
CHAIN_GIVEN = {"z[1]": 1}
CHAIN_WEIGHTS = {1: F(1, 2) * F(1, 4) * F(3, 4), 2: F(3, 4) * F(3, 4) * F(3, 4)}
CHAIN_TYPE = "{z: Bool^2, y: Bool^2 observed} -> M Real"


def scanned(step: Callable[..., Any], xs: Tensor) -> Any:
    return scan(lambda carry, x: (step(carry + x),) * 2)(torch.tensor(0.0), xs)[1].sum()


SCAN = Case(
    lambda: scanned(chain, torch.zeros(2)),
    SEEN_CHAIN,
    CHAIN_GIVEN,
    CHAIN_WEIGHTS,
    CHAIN_TYPE,
    lambda: scan(lambda c, x: (c, seen(x)))(torch.tensor(0.0), torch.tensor([1.0, 2.0]))[1].sum(),
    ([0.5, 1.5], at(1.0, 0.5) + at(2.0, 1.5)),
    mass(1.0) * mass(2.0),
    1.5,
)


def counted(carry: tuple[Tensor, Tensor]) -> Any:
    z = chain(carry[0])
    return z, carry[1] + z


ITERATE = Case(
    lambda: iterate(counted, 2)((torch.tensor(0.0), torch.tensor(0.0)))[1],
    SEEN_CHAIN,
    CHAIN_GIVEN,
    CHAIN_WEIGHTS,
    CHAIN_TYPE,
    lambda: iterate(lambda total: total + seen(1.0), 2)(torch.tensor(0.0)),
    ([0.5, 1.5], at(1.0, 0.5) + at(1.0, 1.5)),
    mass(1.0) ** 2,
    1.0,
)
LOOKS = (BranchError, "Python looks at a random value")
UNTIL = Case(
    lambda: iterate(lambda z: z + flip("z", 0.25), 2, until=lambda z: z == 1)(torch.tensor(0.0)),
    [
        ({"z[0]": 1}, F(1, 4), 1),
        ({"z[0]": 0, "z[1]": 1}, F(3, 16), 1),
        ({"z[0]": 0, "z[1]": 0}, F(9, 16), 0),
    ],
    {"z[0]": 1},
    {1: F(1, 4)},
    "",
    lambda: iterate(lambda z: z + seen(1.0), 3, until=lambda z: torch.tensor(True))(
        torch.tensor(2.0)
    ),
    ([], 0.0),
    1.0,
    2.0,
    {"type": LOOKS, "capture": LOOKS},
)


def liked() -> Tensor:
    x = flip("x", 0.5)
    likely(0.5, x)
    return 1 + x


def unlike() -> Tensor:
    y = flip("y", 0.25)
    observe("o", dist.Bernoulli(0.5 + 0.25 * y), torch.tensor(1.0))
    return y


BRANCHES = [
    ({"a": 1, "x": 0}, F(1, 8), 1),
    ({"a": 1, "x": 1}, F(1, 16), 2),
    ({"a": 0, "y": 0}, F(3, 4) * F(3, 4) * F(1, 2), 0),
    ({"a": 0, "y": 1}, F(3, 4) * F(1, 4) * F(3, 4), 1),
]
COND = Case(
    lambda: cond(flip("a", 0.25), liked, unlike)(),
    BRANCHES,
    {"a": 1},
    {1: F(1, 4), 2: F(1, 8)},
    "{a: Bool, x: Bool, y: Bool, o: Bool observed} -> M Real",
    lambda: cond(torch.tensor(False), lambda: seen(1.0), lambda: seen(2.0))(),
    ([1.5], at(2.0, 1.5)),
    mass(2.0),
    1.0,
)

SWITCH = Case(
    lambda: switch(
        (flip("a", 0.5) + flip("b", 0.5)).long(), liked, unlike, lambda: torch.tensor(5.0)
    )(),
    [
        ({"a": 0, "b": 0, "x": 0}, F(1, 8), 1),
        ({"a": 0, "b": 0, "x": 1}, F(1, 16), 2),
        *(
            ({"a": a, "b": 1 - a, "y": y}, w, y)
            for a in (0, 1)
            for y, w in ((0, F(1, 4) * F(3, 4) * F(1, 2)), (1, F(1, 4) * F(1, 4) * F(3, 4)))
        ),
        ({"a": 1, "b": 1}, F(1, 4), 5),
    ],
    {"a": 1, "b": 1},
    {5: F(1, 4)},
    "{a: Bool, b: Bool, x: Bool, y: Bool, o: Bool observed} -> M Real",
    lambda: switch(torch.tensor(1), lambda: seen(1.0), lambda: seen(2.0))(),
    ([1.5], at(2.0, 1.5)),
    mass(2.0),
    1.0,
)

MIXTURE = Case(
    lambda: mixture([3, 1], [unlike, liked])(),
    [({"component": c.pop("a"), **c}, w, v) for c, w, v in [({**c}, w, v) for c, w, v in BRANCHES]],
    {"component": 1},
    {1: F(1, 4), 2: F(1, 8)},
    "{component: Fin(2), y: Bool, o: Bool observed, x: Bool} -> M Real",
    lambda: condition(mixture([3, 1], [lambda: seen(1.0), lambda: seen(2.0)]), {"component": 1})(),
    ([1.5], at(2.0, 1.5) + math.log(1 / 4)),
    mass(2.0) / 4,
    1.0,
)


def countdown(self: Callable[..., Any], n: int) -> Any:
    if n == 0:
        return torch.tensor(0.0)
    z = flip("z", 0.5)
    likely(0.5, z)
    return z + self(n - 1)


def walk(self: Callable[..., Any], n: int) -> Any:
    return seen(float(n)) + self(n - 1) if n else torch.tensor(0.0)


FIX = Case(
    lambda: fix(countdown)(2),
    [({"z": a, "z[0]": b}, F(1, 4) / 2 ** (a + b), a + b) for a in (0, 1) for b in (0, 1)],
    {"z[0]": 1},
    {1: F(1, 4), 2: F(1, 8)},
    "{z: Bool, z[0]: Bool} -> M Real",
    lambda: fix(walk)(2),
    ([1.5, 0.5], at(2.0, 1.5) + at(1.0, 0.5)),
    mass(1.0) * mass(2.0),
    1.5,
)


def geometric(self: Callable[..., Any], most: int) -> Any:
    if most == 0 or bool(flip("stop", 0.5)):
        return torch.tensor(0.0)
    return 1 + self(most - 1)


RANDOM_FIX = Case(
    lambda: fix(geometric)(2),
    [
        ({"stop": 1}, F(1, 2), 0),
        ({"stop": 0, "stop[0]": 1}, F(1, 4), 1),
        ({"stop": 0, "stop[0]": 0}, F(1, 4), 2),
    ],
    {"stop": 0},
    {1: F(1, 2), 2: F(1, 2)},
    "",
    lambda: fix(lambda self, n: seen(1.0) if n == 0 else self(n - 1))(3),
    ([0.5], at(1.0, 0.5)),
    mass(1.0),
    0.5,
    {"type": LOOKS, "capture": LOOKS, "vmap": LOOKS},
)


def remembered() -> Any:
    f = memo(lambda k: flip("v", 0.25 * (k + 1)))
    return f(0) + 2 * f(1) * f(0)


MEMO = Case(
    remembered,
    [
        ({"memo(0)/v": 0, "memo(1)/v": 0}, F(3, 8), 0),
        ({"memo(0)/v": 0, "memo(1)/v": 1}, F(3, 8), 0),
        ({"memo(0)/v": 1, "memo(1)/v": 0}, F(1, 8), 1),
        ({"memo(0)/v": 1, "memo(1)/v": 1}, F(1, 8), 3),
    ],
    {"memo(1)/v": 1},
    {0: F(1, 2), 3: F(1, 2)},
    "{memo(0)/v: Bool, memo(1)/v: Bool} -> P Real",
    lambda: (lambda f: f(1) + f(2) + f(1))(memo(lambda k: seen(float(k)))),
    ([0.5, 1.5], at(1.0, 0.5) + at(2.0, 1.5)),
    mass(1.0) * mass(2.0),
    2.0,
)


def pair() -> Any:
    a = flip("a", 0.25)
    return a + flip("b", 0.25 + 0.5 * a)


def gaussians() -> Any:
    x = sample("x", dist.Normal(1.0, 1.0))
    return sample("y", dist.Normal(x, 1.0)) + x


CONDITION = Case(
    condition(pair, {"b": 1.0}),
    [({"a": 0}, F(3, 16), 1), ({"a": 1}, F(3, 16), 2)],
    {"a": 1},
    {2: F(3, 16)},
    "{a: Bool, b: Bool observed} -> M Real",
    condition(gaussians, {"y": 0.0}),
    ([0.5], at(1.0, 0.5)),
    mass(1.0),
    0.5,
)

DO = Case(
    do(pair, {"a": 1.0}),
    [({"b": 0}, F(1, 4), 1), ({"b": 1}, F(3, 4), 2)],
    {"b": 1},
    {2: F(3, 4)},
    "{b: Bool} -> P Real",
    do(gaussians, {"x": 3.0}),
    ([2.0], -0.5 - 0.5 * math.log(2 * math.pi)),
    1.0,
    6.0,
)


def scoped() -> Any:
    with scope("in"):
        return pair()


SCOPE = Case(
    scoped,
    [
        ({"in/a": 0, "in/b": 0}, F(9, 16), 0),
        ({"in/a": 0, "in/b": 1}, F(3, 16), 1),
        ({"in/a": 1, "in/b": 0}, F(1, 16), 1),
        ({"in/a": 1, "in/b": 1}, F(3, 16), 2),
    ],
    {"in/b": 1},
    {1: F(1, 4), 2: F(3, 4)},
    "{in/a: Bool, in/b: Bool} -> P Real",
    lambda: [seen(1.0), *_scoped_seen()][1],
    ([0.5, 1.5], at(1.0, 0.5) + at(2.0, 1.5)),
    mass(1.0) * mass(2.0),
    1.0,
)


def _scoped_seen() -> list[Any]:
    with scope("in"):
        return [seen(2.0)]


ANONYMOUS = (NoDensityError, "anonymous randomness")
MARGINAL = Case(
    marginal(pair, ["b"]),
    [
        ({"b": 0}, F(9, 16), 0),
        ({"b": 1}, F(3, 16), 1),
        ({"b": 0}, F(1, 16), 1),
        ({"b": 1}, F(3, 16), 2),
    ],
    {"b": 1},
    {1: F(1, 4), 2: F(3, 4)},
    "{b: Bool} -> P Real",
    marginal(gaussians, ["y"]),
    ([], 0.0),
    1.0,
    2.0,
    {"assess": ANONYMOUS, "capture": ANONYMOUS},
)


def scored() -> Any:
    x = flip("x", 0.25)
    likely(0.5, x)
    return x


IDEAL = (NoDensityError, "is an ideal that sampling does not know")
NORMALIZE = Case(
    normalize(scored),
    [({}, F(6, 7), 0), ({}, F(1, 7), 1)],
    {},
    {},
    "{} -> P Real",
    lambda: normalize(seen)(1.0),
    ([], 0.0),
    1.0,
    0.5,
    {name: IDEAL for name in ("simulate", "assess", "generate", "capture", "vmap")},
)
# 00: 9/16 is zero; 11: 1/16 is one; 01 and 10: 6/16, where the one has a third of the weight
RESAMPLED = Case(
    normalize(scored, particles=2),
    [({}, F(9, 16) + F(6, 16) * F(2, 3), 0), ({}, F(1, 16) + F(6, 16) * F(1, 3), 1)],
    {},
    {0: F(1), 1: F(1)},
    "{} -> P Real",
    lambda: normalize(seen, particles=1)(1.0),
    ([], 0.0),
    1.0,
    1.0,
    {"assess": ANONYMOUS, "capture": ANONYMOUS},
)

CASES = {
    "vmap": LANES,
    "scan": SCAN,
    "iterate": ITERATE,
    "iterate until": UNTIL,
    "cond": COND,
    "switch": SWITCH,
    "mixture": MIXTURE,
    "fix": FIX,
    "fix at random": RANDOM_FIX,
    "memo": MEMO,
    "condition": CONDITION,
    "do": DO,
    "scope": SCOPE,
    "marginal": MARGINAL,
    "normalize": NORMALIZE,
    "normalize by particles": RESAMPLED,
}
COMBINATORS = {
    *("vmap", "scan", "iterate", "cond", "switch", "mixture", "fix", "memo"),
    *("condition", "do", "scope", "marginal", "normalize"),
}


# -------------------------------------------------------------------------------- interpretations


def numbers(choices: Choices) -> dict[str, Tensor]:
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in choices.items()}


def key(choices: Choices) -> tuple[Any, ...]:
    return tuple(sorted((n, tuple(c.reshape(-1).tolist())) for n, c in choices.items()))


def close(found: Any, wanted: Any) -> bool:
    return abs(float(found) - float(wanted)) < 1e-12


def simulates(case: Case) -> None:
    known = {(key(numbers(c)), float(v)): w for c, w, v in case.atoms}
    met = set()
    for seed in range(40):
        trace = simulate(case.p, seed=seed)
        at = key(trace.choices), float(trace.value)
        met.add(at)
        if len({k for k in known if k[0] == at[0]}) == 1 and "assess" not in case.refuses:
            assert close(trace.log_density.exp(), known[at])
        assert at in known
    assert len(met) > 1


def assesses(case: Case) -> None:
    for choices, weight, value in case.atoms:
        log_density, result = assess(case.p, numbers(choices))
        assert close(log_density.exp(), weight)
        assert float(result) == value


def generates(case: Case) -> None:
    met = set()
    for seed in range(40):
        trace, log_weight = generate(case.p, numbers(case.given), seed=seed)
        assert case.given.items() <= {n: v.tolist() for n, v in trace.choices.items()}.items()
        assert close(log_weight.exp(), case.weights[float(trace.value)])
        met.add(float(trace.value))
    assert met == set(case.weights)


def has_type(case: Case) -> None:
    assert str(program(case.p).type()) == case.type


def enumerates(case: Case) -> None:
    require_law(masses(case.p), case.law())


def integrates(case: Case) -> None:
    measure = denote(case.smooth, quadrature=32)
    assert measure.mass() == pytest.approx(case.mass, abs=1e-8)
    assert float(measure.expect()) / measure.mass() == pytest.approx(case.mean, abs=1e-8)


def captures(case: Case) -> None:
    require_law(captured(case.p), case.law())
    if not case.point[0]:
        return
    density = LogDensity(case.smooth)
    point = torch.tensor([case.point[0]])
    value, gradient = capture(density, torch.zeros_like(point))(point)
    assert close(value[0], case.point[1])
    along = torch.autograd.functional.jacobian(density, point[0])
    assert torch.allclose(gradient[0], along)


def masses(p: Callable[[], Any]) -> dict[Any, float]:
    return {readable(value): weight for value, weight in denote(p).items()}


def require_law(found: dict[Any, float], law: dict[Any, F]) -> None:
    assert found.keys() == law.keys()
    for value, weight in law.items():
        assert close(found[value], weight)


def runs_in_lanes(case: Case) -> None:
    """Two lanes are a product: exactly, and by the density of every pair of lanes."""
    law = case.law()
    product = {(a, b): law[a] * law[b] for a, b in itertools.product(law, law)}
    twice = vmap(case.p, size=2)
    require_law(masses(twice), product)
    trace = simulate(twice, seed=0)
    assert tuple(trace.value.tolist()) in product
    if "assess" in case.refuses:
        return
    found: dict[Any, float] = {}
    sizes = {name: value.numel() for name, value in trace.choices.items()}
    for flat in itertools.product((0.0, 1.0), repeat=sum(sizes.values())):
        rest = iter(flat)
        choices = {
            name: torch.tensor([next(rest) for _ in range(value.numel())])
            .reshape(value.shape)
            .to(value.dtype)
            for name, value in trace.choices.items()
        }
        log_density, value = assess(twice, choices)
        at = tuple(value.tolist())
        found[at] = found.get(at, 0.0) + math.exp(log_density)
    require_law(found, product)


INTERPRETATIONS: dict[str, Callable[[Case], None]] = {
    "simulate": simulates,
    "assess": assesses,
    "generate": generates,
    "type": has_type,
    "enumerate": enumerates,
    "quadrature": integrates,
    "capture": captures,
    "vmap": runs_in_lanes,
}


def test_the_table_has_every_combinator() -> None:
    assert {name.split()[0] for name in CASES} == COMBINATORS <= set(ppl.__all__)


@pytest.mark.parametrize("interpretation", INTERPRETATIONS)
@pytest.mark.parametrize("combinator", CASES)
def test_a_combinator_in_an_interpretation(combinator: str, interpretation: str) -> None:
    case, interpret = CASES[combinator], INTERPRETATIONS[interpretation]
    if interpretation not in case.refuses:
        interpret(case)
        return
    error, said = case.refuses[interpretation]
    with pytest.raises(error, match=said):
        interpret(case)


# -------------------------------------------------------------------------------------- bad input


def nothing() -> Tensor:
    return torch.tensor(0.0)


def at_lanes(index: Any, *programs: Callable[[], Any]) -> Any:
    return vmap(lambda i: switch(i, *programs)())(torch.tensor(index))


def looped(xs: Any, step: Callable[..., Any] = lambda c, x: (c, x)) -> Any:
    return scan(step)(torch.tensor(0.0), xs)


def dead() -> None:
    factor("f", torch.tensor(-math.inf))


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a negative count": (lambda: iterate(abs, -1), "iterate needs a number of steps, not -1"),
    "half a step": (lambda: iterate(abs, 2.5), r"a number of steps, not 2\.5"),  # type: ignore[arg-type]
    "a truth value of steps": (lambda: iterate(abs, True), "a number of steps, not True"),
    "nothing to scan": (lambda: looped(()), "inputs of one length, not none"),
    "a number to scan": (lambda: looped(torch.tensor(1.0)), "leading axis of tensors"),
    "a list to scan": (lambda: looped([1.0, 2.0]), "leading axis of tensors"),
    "two lengths": (lambda: looped((torch.zeros(2), torch.zeros(3))), r"one length, not \[2, 3\]"),
    "a step without output": (lambda: looped(torch.zeros(2), lambda c, x: c), "returns a Tensor"),
    "lanes of two sizes": (
        lambda: vmap(lambda a, b: a + b)(torch.zeros(2), torch.zeros(3)),
        r"one leading size, not \[2, 3\]",
    ),
    "lanes of no size": (lambda: vmap(nothing)(), "one leading size, not none"),
    "a negative number of lanes": (lambda: vmap(nothing, size=-2)(), r"leading size, not \[-2\]"),
    "an axis too many": (lambda: vmap(nothing, in_axes=(0,))(), "in_axes needs 0 or None"),
    "no branch": (lambda: switch(0), "at least one program"),
    "a branch too far": (lambda: switch(2, nothing, nothing)(), "2 branches, and no branch 2"),
    "a negative branch": (lambda: switch(-1, nothing)(), "no branch -1"),
    "half a branch": (lambda: switch(torch.tensor(0.5), nothing)(), r"no branch 0\.5"),
    "a branch that is no number": (lambda: switch(torch.tensor(math.nan), nothing)(), "branch nan"),
    "a branch too far in a lane": (lambda: at_lanes([0, 5], nothing, nothing), "a lane wants"),
    "a negative branch in a lane": (lambda: at_lanes([0, -1], nothing, nothing), "a lane wants"),
    "half a branch in a lane": (lambda: at_lanes([0.0, 0.5], nothing, nothing), "a lane wants"),
    "two conditions": (
        lambda: cond(torch.tensor([True, False]), nothing, nothing)(),
        "one branch is to be taken, by 2 values",
    ),
    "branches of two structures": (
        lambda: vmap(lambda i: cond(i, nothing, lambda: (nothing(),))())(
            torch.tensor([True, False])
        ),
        "the branches return different structures",
    ),
    "a branch that returns nothing": (
        lambda: vmap(lambda i: cond(i, nothing, lambda: None)())(torch.tensor([True, False])),
        "one returns None where another returns a value",
    ),
    "a negative weight": (lambda: mixture([-1.0, 2.0], [nothing] * 2), r"\[-1.0, 2.0\] are no wei"),
    "weights of zero": (lambda: mixture([0, 0], [nothing] * 2), r"\[0.0, 0.0\] are no weights"),
    "a weight that is no number": (lambda: mixture([math.nan], [nothing]), r"\[nan\] are no weigh"),
    "an infinite weight": (lambda: mixture([math.inf, 1], [nothing] * 2), "are no weights"),
    "no programs": (lambda: mixture([], []), r"\[\] are no weights"),
    "a weight too many": (
        lambda: mixture([1.0, 1.0], [nothing]),
        r"1 programs, but weights \(2,\)",
    ),
    "a misspelt cause": (lambda: do(pair, {"c": 1.0})(), "do sets 'c', which pair does not sample"),
    "an impossible cause": (lambda: do(pair, {"a": 2.0})(), "2 is outside the support Boolean"),
    "a cause that is no number": (lambda: do(gaussians, {"x": math.nan})(), "hold 1 NaN"),
    "a cause too wide": (
        lambda: do(pair, {"a": torch.zeros(3)})(),
        r"shape \[3\] is set where \[\]",
    ),
    "data of a site with data": (
        lambda: condition(condition(pair, {"a": 1.0}), {"a": 0.0})(),
        "already observes",
    ),
    "an unmet latent": (lambda: marginal(pair, ["c"])(), r"keeps \['c'\], which pair did not"),
    "no particles": (lambda: normalize(scored, particles=0)(), "at least one particle, not 0"),
    "dead particles": (lambda: normalize(dead, particles=2)(), "every particle has weight zero"),
    "a query of mass zero": (lambda: denote(normalize(dead)), "the measure is zero"),
    "a recursion without end": (lambda: fix(lambda self: self())(), "deeper than"),
    "a function from outside": (
        lambda: (lambda f: simulate(lambda: f(0)))(memo(lambda k: flip("v", 0.5))),
        "drawn outside the program",
    ),
    "a random function of a lane": (
        lambda: simulate(
            lambda: (lambda f: vmap(lambda k: f(k))(torch.arange(2)))(memo(lambda k: nothing()))
        ),
        "differs by lane",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_bad_input_is_refused(mistake: str) -> None:
    attempt, said = WRONG[mistake]
    with pytest.raises(PushforwardError, match=said) as caught:
        attempt()
    assert f"{__file__}:" in str(caught.value)


def test_a_loop_or_lanes_without_steps() -> None:
    assert denote(lambda: iterate(lambda z: flip("z", z), 0)(torch.tensor(0.5))).pmf() == {0.5: 1.0}
    assert looped(torch.zeros(0)) == (torch.tensor(0.0), None)
    empty = vmap(lambda p: flip("x", p))
    assert simulate(empty, torch.zeros(0)).value.shape == (0,)
    assert denote(empty, torch.zeros(0)).pmf() == {(): 1.0}
    assert str(program(empty).type(torch.zeros(0))) == "{x: Bool[0]} -> P Real[0]"


# ----------------------------------------------------------------------------------- compositions


def test_data_of_loops_and_lanes_have_the_steps_first() -> None:
    chance = torch.tensor([[0.1, 0.2], [0.4, 0.5]])  # of each step, in each lane
    seen = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    wanted, crossed = 0.9 * 0.2 * 0.6 * 0.5, 0.9 * 0.8 * 0.4 * 0.5

    def step(carry: Tensor, p: Tensor) -> Any:
        return carry, flip("z", p)

    def loops_in_lanes() -> Any:
        return vmap(lambda ps: scan(step)(torch.tensor(0.0), ps)[1])(chance.T)

    def lanes_in_loops() -> Any:
        return scan(lambda c, ps: (c, vmap(lambda p: step(c, p)[1])(ps)))(torch.tensor(0.0), chance)

    for p in (loops_in_lanes, lanes_in_loops):
        for given in (condition(p, {"z": seen}), condition(p, {"z[0]": seen[0], "z[1]": seen[1]})):
            assert close(denote(given).mass(), wanted)
            assert close(assess(given, {})[0].exp(), wanted)
        assert close(denote(condition(p, {"z": seen.T})).mass(), crossed)
        assert denote(do(p, {"z": seen})).mass() == 1.0


def test_an_intervention_is_no_observation() -> None:
    """A collider: both causes are independent given do, and dependent given the data."""

    def alarm() -> Any:
        fire, joke = flip("fire", 0.25), flip("joke", 0.5)
        return fire + 2 * joke, flip("bell", torch.maximum(fire, joke))

    done = masses(do(alarm, {"bell": 1.0}))
    assert close(done[(3.0, 1.0)], 1 / 8) and close(done[(0.0, 1.0)], 3 / 8)
    given = masses(condition(alarm, {"bell": 1.0}))
    assert close(given[(3.0, 1.0)], 1 / 8) and (0.0, 1.0) not in given
    # a loop's steps may be set one by one, or stacked
    walked = lambda: scanned(chain, torch.zeros(2))  # noqa: E731
    for values in ({"z": torch.tensor([1.0, 0.0])}, {"z[0]": 1.0, "z[1]": 0.0}):
        assert masses(do(walked, values)) == {1.0: pytest.approx(3 / 8)}


def test_queries_nest() -> None:
    """A listener reasons about a speaker who reasons about a listener."""

    def literal(word: Tensor) -> Any:
        world = flip("world", 0.5)
        factor("true", torch.where((word == 1) & (world == 0), -torch.inf, 0.0))
        return world

    def speaker(world: Tensor) -> Any:
        word = flip("word", 0.5)
        understood = normalize(literal)(word)
        factor("right", torch.where(understood == world, 0.0, -torch.inf))
        return word

    def listener() -> Any:
        world = flip("state", 0.5)
        spoken = normalize(speaker)(world)
        factor("heard", torch.where(spoken == 0, 0.0, -torch.inf))
        return world

    # word 1 means world 1; word 0 either; so who means world 1 says 0 with probability 1/3
    found = masses(normalize(listener))
    assert close(found[1.0], F(1, 4)) and close(found[0.0], F(3, 4))


def test_few_particles_are_another_program() -> None:
    exact = masses(normalize(scored))[1.0]
    errors = [abs(masses(normalize(scored, particles=n))[1.0] - exact) for n in (1, 2, 4, 8)]
    assert errors[0] == pytest.approx(1 / 4 - 1 / 7)
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.02


def test_a_random_function_of_its_history_is_a_gaussian_process() -> None:
    """Asked in either order, the values of two points have the covariance of the kernel."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(-((a[:, None] - b[None, :]) ** 2) / 2)

    def value(x: float, earlier: list[Any]) -> Tensor:
        if not earlier:
            return sample("value", dist.Normal(0.0, 1.0))
        at, known = torch.tensor([x]), torch.tensor([args[0] for args, _ in earlier])
        gain = torch.linalg.solve(kernel(known, known), kernel(known, at))[:, 0]
        mean = gain @ torch.stack([v for _, v in earlier])
        return sample("value", dist.Normal(mean, (1 - kernel(known, at)[:, 0] @ gain).sqrt()))

    def product(order: tuple[float, ...]) -> Any:
        f = memo(value, "f", history=True)
        drawn = {x: f(x) for x in order}
        return drawn[0.0] * drawn[1.0]

    for order in ((0.0, 1.0), (1.0, 0.0), (1.0, 0.0, 1.0)):
        covariance = denote(product, order, quadrature=24).expect()
        assert float(covariance) == pytest.approx(math.exp(-0.5), abs=1e-8)


def test_a_random_grammar_of_graphs() -> None:
    """A random tree: its number of nodes has the masses of Catalan numbers."""

    def tree(self: Callable[..., Any]) -> Any:
        if flip("leaf", 0.5) == 1:
            return torch.tensor(1.0)
        return 1 + self() + self()

    found = masses_to(fix(tree), depth=6)
    # 2 k + 1 nodes: Catalan(k) trees, each of probability 2^-(2 k + 1)
    for k, catalan in enumerate((1, 1, 2, 5, 14)):
        assert close(found[2.0 * k + 1], F(catalan, 2 ** (2 * k + 1)))


def masses_to(p: Callable[[], Any], depth: int) -> dict[Any, float]:
    return {readable(value): weight for value, weight in denote(p, depth=depth).items()}


def test_single_precision_stays_single() -> None:
    torch.set_default_dtype(torch.float32)
    single = denote(mixture([3, 1], [unlike, liked]))
    assert single.mass() == pytest.approx(float(sum(MIXTURE.law().values())), abs=1e-6)
    assert all(value.dtype == torch.float32 for value, _ in single.items())


def test_causes_of_steps_that_no_loop_has_are_refused() -> None:
    def walk() -> Tensor:
        def step(c: Tensor, _: Tensor) -> tuple[Tensor, None]:
            z = sample("z", dist.Bernoulli(0.3 + 0.4 * c))
            observe("y", dist.Bernoulli(0.2 + 0.5 * z), torch.tensor(1.0))
            return z, None

        return scan(step)(torch.tensor(0.0), torch.zeros(2))[0]  # type: ignore[no-any-return]

    assert denote(do(walk, {"z": [1.0, 0.0]})).mass() == pytest.approx(0.7 * 0.2)
    long = do(walk, {"z": [1.0, 0.0, 1.0]})
    for run in (denote, lambda p: assess(p, {}), simulate):
        with pytest.raises(DataError, match=r"no step meets entry \[2\]"):
            run(long)  # type: ignore[operator]
