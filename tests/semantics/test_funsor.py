"""A second oracle: funsor eliminates what the exact evaluator enumerates, and the two agree.

The log density of a program with finitely many traces is laid out over the grid of its latents, one
factor for each site, and funsor sums the latents out.  Linear-Gaussian programs are written again
as funsor's Gaussians.  A disagreement would say that one of two unrelated programs is wrong.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import funsor
import funsor.ops as ops
import funsor.torch.distributions as fdist
import pytest
import torch
from funsor.sum_product import sequential_sum_product, sum_product
from support.equations import run_on
from support.sizes import quick
from support.square import Plain, require_equal
from support.terms import terms
from torch.utils._pytree import tree_flatten, tree_unflatten

from pushforward import assess, condition, dist, observe, sample, scan
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.parse import parse
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.errors import BudgetError
from pushforward.ppl.interpretations.abstract_run import abstract_run
from pushforward.ppl.interpretations.recorder import Recorder
from pushforward.ppl.language.effects import scaled_log_prob
from pushforward.ppl.language.handlers import Sealed
from pushforward.semantics import denote
from pushforward.semantics.checks.agreement import collected, plain

GRID = 512  # programs with more traces are left out


@pytest.fixture(autouse=True)
def double() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    funsor.set_backend("torch")
    yield
    torch.set_default_dtype(before)


# ------------------------------------------------------------------------------- finite programs


class BySite(Recorder):
    """Records what each site adds to the log density."""

    def __enter__(self) -> Recorder:
        self.added: dict[str, torch.Tensor] = {}
        return super().__enter__()

    def _postprocess_message(self, msg: Any) -> None:
        super()._postprocess_message(msg)
        if self.sites.get(msg["name"], "derived") != "derived":
            self.added[msg["name"]] = scaled_log_prob(msg)


def eliminated(p: Callable[..., Any], *args: Any) -> Plain:
    """The measure of a program with a fixed set of finite latents, summed out by funsor."""
    run, _ = abstract_run(p, *args)
    latents = {n: site.space for n, site in run.sites.items() if not site.observed}
    supports = [space.enumerate() for space in latents.values()]
    sizes = [len(support) for support in supports]
    count = math.prod(sizes)
    if count > GRID:
        raise BudgetError(f"{count} traces")
    grid = torch.meshgrid(*supports, indexing="ij") if supports else ()
    names: list[str] = []
    structure: Any = None

    def densities(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        nonlocal names, structure
        choices = dict(zip(latents, given, strict=True))
        with no_validation(), Sealed(), BySite(choices, density=True, validate=False) as recorder:
            leaves, structure = tree_flatten(p(*args))
        names = list(recorder.added)  # type: ignore[attr-defined]
        return *recorder.added.values(), *leaves  # type: ignore[attr-defined]

    lanes = [axis.reshape(-1) for axis in grid]
    rows = torch.func.vmap(densities)(*lanes) if lanes else densities()
    rows = tuple(torch.as_tensor(row).expand(count) for row in rows)
    factors, leaves = rows[: len(names)], rows[len(names) :]
    values = [plain(tree_unflatten([leaf[i] for leaf in leaves], structure)) for i in range(count)]
    results = list(dict.fromkeys(values))
    axes = [f"v{i}" for i in range(len(sizes))]
    parts = [as_funsor(factor.reshape(sizes), axes) for factor in factors]
    # every latent is summed over, also one that no factor depends on
    parts += [
        funsor.Tensor(torch.zeros(size), OrderedDict({axis: funsor.Bint[size]}))
        for axis, size in zip(axes, sizes, strict=True)
    ]
    chosen = torch.tensor([results.index(value) for value in values]).reshape(sizes)
    one_hot = torch.nn.functional.one_hot(chosen, len(results)).to(torch.float64).log()
    parts.append(as_funsor(one_hot, [*axes, "result"]))
    total = sum_product(ops.logaddexp, ops.add, parts, eliminate=frozenset(axes))
    masses = total.data.expand(len(results)).exp().tolist()
    return collected(zip(results, masses, strict=True))


def as_funsor(table: torch.Tensor, names: list[str]) -> funsor.Tensor:
    """A table as a factor of those variables that it depends on."""
    kept = []
    for dim in reversed(range(table.ndim)):
        first = table.select(dim, 0)
        if names[dim] != "result" and bool((table == first.unsqueeze(dim)).all()):
            table = first
        else:
            kept.insert(0, names[dim])
    inputs = OrderedDict((n, funsor.Bint[size]) for n, size in zip(kept, table.shape, strict=True))
    return funsor.Tensor(table, inputs)


@pytest.mark.parametrize(("count", "least"), quick(1, [(40, 30), (130, 100)]))
def test_random_terms(count: int, least: int) -> None:
    compared = 0

    def test(term: s.Term) -> None:
        nonlocal compared
        p = elaborate(term)
        try:
            found = eliminated(p)
        except BudgetError:
            return
        compared += 1
        require_equal(term, ("denote", "funsor"), collected(denote(p).items()), found)

    run_on(terms(static=True), test, count)
    assert compared >= least


def alarm() -> Any:
    """Burglary and earthquake, an alarm, and two neighbours who may call."""
    burglary = sample("burglary", dist.Bernoulli(0.001))
    earthquake = sample("earthquake", dist.Bernoulli(0.002))
    table = torch.tensor([[0.001, 0.29], [0.94, 0.95]])
    alarm = sample("alarm", dist.Bernoulli(table[burglary.long(), earthquake.long()]))
    observe("john", dist.Bernoulli(torch.tensor([0.05, 0.9])[alarm.long()]), torch.tensor(1.0))
    observe("mary", dist.Bernoulli(torch.tensor([0.01, 0.7])[alarm.long()]), torch.tensor(1.0))
    return burglary


def asia() -> Any:
    """The chest clinic of Lauritzen and Spiegelhalter (1988), with shortness of breath seen."""
    asia = sample("asia", dist.Bernoulli(0.01))
    smoke = sample("smoke", dist.Bernoulli(0.5))
    tuberculosis = sample("tuberculosis", dist.Bernoulli(0.01 + 0.04 * asia))
    lung = sample("lung", dist.Bernoulli(0.01 + 0.09 * smoke))
    bronchitis = sample("bronchitis", dist.Bernoulli(0.3 + 0.3 * smoke))
    either = torch.maximum(tuberculosis, lung)
    sample("xray", dist.Bernoulli(0.05 + 0.93 * either))
    table = torch.tensor([[0.1, 0.8], [0.7, 0.9]])
    breath = dist.Bernoulli(table[either.long(), bronchitis.long()])
    observe("breath", breath, torch.tensor(1.0))
    return lung, bronchitis


def coins() -> Any:
    """Three effects of a common cause."""
    z = sample("z", dist.Bernoulli(0.3))
    return tuple(sample(f"x{i}", dist.Bernoulli(0.2 + 0.2 * i * z)) for i in range(3))


@pytest.mark.parametrize("p", [alarm, asia, coins], ids=lambda p: p.__name__)
def test_networks(p: Callable[[], Any]) -> None:
    assert eliminated(p) == pytest.approx(collected(denote(p).items()), abs=1e-12, rel=1e-10)


def test_the_alarm_by_hand() -> None:
    """Russell and Norvig: P(burglary | john, mary) = 0.284."""
    found = eliminated(alarm)
    assert found[1.0] / sum(found.values()) == pytest.approx(0.284, abs=5e-4)


def test_a_wrong_table_is_seen() -> None:
    right = collected(
        denote(elaborate(parse("do { x <- flip(1/3); flip(if x then 1/4 else 1/2) }"))).items()
    )
    wrong = eliminated(elaborate(parse("do { x <- flip(1/3); flip(if x then 1/2 else 1/4) }")))
    assert abs(right[True] - wrong[True]) > 1e-2


TRANSITION = torch.tensor([[0.8, 0.15, 0.05], [0.1, 0.7, 0.2], [0.25, 0.25, 0.5]])
EMISSION = torch.tensor([0.1, 0.45, 0.9])
SEEN = torch.tensor([float(t % 3 == 0) for t in range(30)])


def chain(transition: torch.Tensor) -> Callable[..., Any]:
    def step(z: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        z = sample("z", dist.Categorical(transition[z]))
        sample("y", dist.Bernoulli(EMISSION[z]))
        return z, None

    return condition(scan(step), {"y": SEEN})


def test_a_hidden_markov_model() -> None:
    emitted = dist.Bernoulli(EMISSION).log_prob(SEEN[:, None])
    table = TRANSITION.log() + emitted[:, None, :]
    inputs = OrderedDict(time=funsor.Bint[30], prev=funsor.Bint[3], curr=funsor.Bint[3])
    time = funsor.Variable("time", funsor.Bint[30])
    factor = funsor.Tensor(table, inputs)
    joint = sequential_sum_product(ops.logaddexp, ops.add, factor, time, {"prev": "curr"})
    expected = joint(prev=0).data.exp()
    found = denote(lambda: chain(TRANSITION)(torch.tensor(0), torch.zeros(30))[0]).pmf()
    wrong = denote(
        lambda: chain(TRANSITION.T / TRANSITION.sum(0))(torch.tensor(0), torch.zeros(30))[0]
    )
    for state in range(3):
        assert found[state] == pytest.approx(float(expected[state]), rel=1e-10)
        assert abs(wrong.pmf()[state] / float(expected[state]) - 1) > 1e-3


# ------------------------------------------------------------------------------ linear and Gaussian


def normal(mean: Any, deviation: float, name: str) -> Any:
    """The funsor of a normal density, whose mean may be affine in other variables."""
    if isinstance(mean, float):
        mean = torch.tensor(mean)
    return fdist.Normal(mean, torch.tensor(deviation), value=name)


def variable(name: str) -> Any:
    return funsor.Variable(name, funsor.Real)


def evidence(joint: Any) -> float:
    return float(joint.reduce(ops.logaddexp, frozenset(joint.inputs)).data)


POINTS = [(1, 2.5), (2, 3.8), (3, 4.5), (4, 6.2), (5, 8.0)]


def line(deviation: float = 0.5) -> Any:
    s = sample("s", dist.Normal(0.0, 3.0))
    b = sample("b", dist.Normal(0.0, 3.0))
    for i, (x, y) in enumerate(POINTS):
        observe(f"y{i}", dist.Normal(s * x + b, deviation), torch.tensor(y))
    return s, b


def line_of_funsor() -> Any:
    joint = normal(0.0, 3.0, "s") + normal(0.0, 3.0, "b")
    for x, y in POINTS:
        mean = variable("s") * float(x) + variable("b")
        joint = joint + normal(mean, 0.5, "y")(y=torch.tensor(y))
    return joint


DATA = [0.3, -0.1, 0.9]


def walk() -> Any:
    """A linear-Gaussian state-space model."""
    z: Any = 0.0
    for t, y in enumerate(DATA):
        z = sample(f"z{t}", dist.Normal(0.9 * z, 0.7))
        observe(f"y{t}", dist.Normal(2.0 * z + 0.1, 0.4), torch.tensor(y))
    return z


def walk_of_funsor() -> Any:
    joint = normal(0.0, 0.7, "z0")
    for t, y in enumerate(DATA):
        if t:
            joint = joint + normal(variable(f"z{t - 1}") * 0.9, 0.7, f"z{t}")
        joint = joint + normal(variable(f"z{t}") * 2.0 + 0.1, 0.4, "y")(y=torch.tensor(y))
    return joint


def walk_by_hand() -> float:
    """The Kalman filter."""
    mean, variance, total = 0.0, 0.0, 0.0
    for y in DATA:
        mean, variance = 0.9 * mean, 0.81 * variance + 0.49
        spread = 4 * variance + 0.16
        gap = y - 2 * mean - 0.1
        total -= 0.5 * (math.log(2 * math.pi * spread) + gap**2 / spread)
        gain = 2 * variance / spread
        mean, variance = mean + gain * gap, variance * (1 - 2 * gain)
    return total


@pytest.mark.parametrize(
    ("p", "joint", "nodes"), [(line, line_of_funsor, 32), (walk, walk_of_funsor, 24)]
)
def test_gaussian_programs(p: Callable[[], Any], joint: Callable[[], Any], nodes: int) -> None:
    """The joint density at random points, and the evidence, which quadrature finds."""
    expected = joint()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        point = {n: torch.randn((), generator=generator) for n in expected.inputs}
        log_density, _ = assess(p, point)
        assert float(log_density) == pytest.approx(float(expected(**point).data), abs=1e-10)
    assert denote(p, quadrature=nodes).log_mass() == pytest.approx(evidence(expected), abs=1e-10)


def test_gaussian_evidence_by_hand() -> None:
    assert evidence(line_of_funsor()) == pytest.approx(-7.685329241799972, abs=1e-10)
    assert evidence(walk_of_funsor()) == pytest.approx(walk_by_hand(), abs=1e-10)


def test_a_wrong_noise_is_seen() -> None:
    found = denote(lambda: line(0.6), quadrature=32).log_mass()
    assert abs(found - evidence(line_of_funsor())) > 1e-2
