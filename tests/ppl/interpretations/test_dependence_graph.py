"""The dependence graph: its edges by hand, and its independences by enumeration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import matplotlib
import pyro
import pytest
import torch
from matplotlib.patches import Rectangle

from pushforward import (
    cond,
    condition,
    deterministic,
    dist,
    do,
    draw,
    factor,
    observe,
    plate,
    program,
    sample,
    scan,
    scope,
    switch,
    vmap,
)
from pushforward.ppl.errors import BranchError, ProgramError
from pushforward.ppl.interpretations.dependence_graph import DependenceGraph
from pushforward.semantics import denote

matplotlib.use("Agg")
SIGMA = torch.tensor([15.0, 10.0, 16.0], dtype=torch.float64)


pytestmark = pytest.mark.usefixtures("double")


def edges(p: Callable[..., Any], *args: Any) -> set[str]:
    return {f"{a}>{b}" for a, b in program(p).graph(*args).graph.edges}


@program
def schools(sigma: torch.Tensor) -> Any:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", len(sigma)):
        z = sample("z", dist.Normal(0.0, 1.0))
        theta = deterministic("theta", mu + tau * z)
        observe("y", dist.Normal(theta, sigma), torch.zeros(3))
    return theta


def centred(sigma: torch.Tensor) -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    with plate("school", len(sigma)):
        theta = sample("theta", dist.Normal(mu, 1.0))
        sample("y", dist.Normal(theta, sigma))


def flip(name: str, *parents: torch.Tensor, sites: Callable[..., Any] = sample) -> Any:
    """A site that leans to where its parents are."""
    lean = sum(((i + 1) * x for i, x in enumerate(parents)), torch.tensor(0.0))
    return sites(name, dist.Bernoulli(torch.sigmoid(1.3 * lean - 0.4)))


def step(z: torch.Tensor, _: torch.Tensor) -> Any:
    z = flip("z", z)
    flip("y", z)
    return z, None


def hmm() -> Any:
    seen = {"y": torch.ones(3)}
    return condition(scan(step), seen)(torch.tensor(0.0), torch.zeros(3))


def branching() -> None:
    c = flip("c")
    a, b = flip("a"), flip("b")
    x = cond(c == 1, lambda: flip("x", a), lambda: flip("w", b))()
    flip("end", x)


def three_ways() -> None:
    k = sample("k", dist.Categorical(torch.ones(3)))
    switch(k, *(lambda i=i: flip(f"s{i}") for i in range(3)))()


def coupled() -> None:
    a, b = flip("a"), flip("b")
    factor("equal", torch.where(a == b, 0.0, -1.0))
    flip("c")


def lanes() -> None:
    a, b = flip("a"), flip("b")

    def one(bias: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
        x = sample("x", dist.Bernoulli(torch.sigmoid(bias + a)))
        return flip("y", x)

    found = vmap(one, (0, None))(torch.tensor([0.1, 0.2]), a)
    flip("z", found.sum(), b)


def closing_lanes() -> None:
    a, b = flip("a"), flip("b")
    vmap(lambda bias: sample("x", dist.Bernoulli(torch.sigmoid(bias + b))))(torch.zeros(2))
    flip("y", a)


def lanes_of_lanes() -> None:
    a = flip("a")
    inner = vmap(lambda b: sample("x", dist.Bernoulli(torch.sigmoid(b + a))))
    total = vmap(inner)(torch.zeros(2, 3))
    flip("y", total[0, 0])


def through_a_draw() -> None:
    a = flip("a")
    hidden = draw(dist.Bernoulli(torch.sigmoid(a)))
    flip("b", hidden)


def nested_plates() -> None:
    a = flip("a")
    with plate("outer", 2, dim=-2):
        b = sample("b", dist.Normal(a, 1.0))
        with plate("inner", 3, dim=-1):
            sample("c", dist.Normal(b, 1.0))


def calling() -> None:
    with scope("left"):
        x = program(lambda: flip("x"))()
    flip("y", x)


def a_pyro_model() -> None:
    a = pyro.sample("a", pyro.distributions.Normal(0.0, 1.0))
    with pyro.plate("data", 2):
        pyro.sample("y", pyro.distributions.Normal(a, 1.0), obs=torch.zeros(2))


EDGES: list[tuple[Callable[..., Any], tuple[Any, ...], str]] = [
    (schools, (SIGMA,), "mu>theta tau>theta z>theta mu>y tau>y z>y"),
    (centred, (SIGMA,), "mu>theta theta>y"),
    (hmm, (), "z[0]>y[0] z[0]>z[1] z[1]>y[1] z[1]>z[2] z[2]>y[2]"),
    (branching, (), "a>x b>w c>end x>end w>end"),
    (coupled, (), "a>equal b>equal"),
    (lanes, (), "a>x x>y y>z b>z"),
    (closing_lanes, (), "b>x a>y"),
    (lanes_of_lanes, (), "a>x x>y"),
    (through_a_draw, (), "a>b"),
    (nested_plates, (), "a>b b>c"),
    (calling, (), "left/x>y"),
    (a_pyro_model, (), "a>y"),
    (do(branching, {"a": torch.tensor(1.0)}), (), "b>w c>end x>end w>end"),
]


@pytest.mark.parametrize(("p", "args", "expected"), EDGES, ids=lambda p: getattr(p, "__name__", ""))
def test_edges(p: Callable[..., Any], args: tuple[Any, ...], expected: str) -> None:
    assert edges(p, *args) == set(expected.split())


def test_a_switch_reaches_what_follows() -> None:
    graph = program(three_ways).graph()
    assert graph.names("latent") == ["k", "s0", "s1", "s2"]


def test_a_branch_in_python_has_no_graph() -> None:
    with pytest.raises(BranchError):
        program(lambda: flip("b") if flip("a") == 1 else None).graph()


# ------------------------------------------------------------------------------------- separations


def chain() -> Any:
    a = flip("a")
    b = flip("b", a)
    return a, b, flip("c", b)


def fork() -> Any:
    b = flip("b")
    return flip("a", b), b, flip("c", b)


def collider() -> Any:
    a, c = flip("a"), flip("c")
    b = flip("b", a, c)
    return a, b, c, flip("d", b)


def diamond() -> Any:
    a = flip("a")
    b, c = flip("b", a), flip("c", a)
    return a, b, c, flip("d", b, c)


def seen_collider() -> Any:
    a, c = flip("a"), flip("c")
    b = flip("b", a, c)
    observe("d", dist.Bernoulli(torch.sigmoid(2 * b - 1)), torch.tensor(1.0))
    return a, b, c


def factored() -> Any:
    a, b = flip("a"), flip("b")
    factor("f", 0.7 * (a == b))
    return a, b, flip("c", b)


NETWORKS = [chain, fork, collider, diamond, seen_collider, factored]


@pytest.mark.parametrize(
    ("p", "question", "answer"),
    [
        (chain, ("a", "c"), False),
        (chain, ("a", "c", "b"), True),
        (fork, ("a", "c"), False),
        (fork, ("a", "c", "b"), True),
        (collider, ("a", "c"), True),
        (collider, ("a", "c", "b"), False),
        (collider, ("a", "c", "d"), False),
        (seen_collider, ("a", "c"), False),
        (factored, ("a", "b"), False),
        (factored, ("a", "c", "b"), True),
        (diamond, ("b", "c", "a"), True),
        (diamond, ("b", "c", ("a", "d")), False),
    ],
)
def test_separation(p: Callable[[], Any], question: tuple[Any, ...], answer: bool) -> None:
    assert program(p).graph().d_separated(*question) is answer


def joint(p: Callable[[], Any]) -> dict[tuple[tuple[str, float], ...], float]:
    """The posterior of the latents of a program, by enumeration."""
    measure = denote(p, of="trace").normalize()
    return {
        tuple((n, float(x)) for n, x in choices.items()): weight
        for choices, weight in measure.items()
    }


def dependence_of(
    table: dict[tuple[tuple[str, float], ...], float], x: str, y: str, given: tuple[str, ...]
) -> float:
    """The largest | P(x, y, z) P(z) - P(x, z) P(y, z) |."""

    def marginal(names: tuple[str, ...]) -> dict[tuple[float, ...], float]:
        found: dict[tuple[float, ...], float] = {}
        for atom, weight in table.items():
            key = tuple(dict(atom)[n] for n in names)
            found[key] = found.get(key, 0.0) + weight
        return found

    all_, xs, ys = marginal((x, y, *given)), marginal((x, *given)), marginal((y, *given))
    zs = marginal(given)
    return max(
        abs(all_.get((i, j, *z), 0.0) * zs[z] - xs.get((i, *z), 0.0) * ys.get((j, *z), 0.0))
        for (i, *_), (j, *_), z in itertools.product(xs, ys, zs)
    )


@pytest.mark.parametrize("p", NETWORKS, ids=lambda p: p.__name__)
def test_separation_is_independence(p: Callable[[], Any]) -> None:
    """These tables are generic, so that dependence in the graph is dependence in the measure."""
    graph, table = program(p).graph(), joint(p)
    latents = graph.names("latent")
    for x, y in itertools.combinations(latents, 2):
        rest = [n for n in latents if n not in (x, y)]
        for size in range(len(rest) + 1):
            for given in itertools.combinations(rest, size):
                gap = dependence_of(table, x, y, given)
                if graph.d_separated(x, y, given):
                    assert gap < 1e-14, (x, y, given)
                else:
                    assert gap > 1e-5, (x, y, given)


@pytest.mark.parametrize("p", NETWORKS, ids=lambda p: p.__name__)
def test_a_blanket_separates(p: Callable[[], Any]) -> None:
    graph = program(p).graph()
    for x in graph.names("latent"):
        blanket = graph.markov_blanket(x) & set(graph.names("latent"))
        if rest := set(graph.names("latent")) - blanket - {x}:
            assert graph.d_separated(x, rest, blanket)


def test_blankets_and_blocks_by_hand() -> None:
    graph = schools.graph(SIGMA)
    assert graph.markov_blanket("mu") == {"tau", "z", "y"}
    assert graph.components() == [{"mu", "tau", "z"}]
    assert program(coupled).graph().components() == [{"a", "b"}, {"c"}]
    assert program(hmm).graph().markov_blanket("z[1]") == {"z[0]", "z[2]", "y[1]"}
    assert program(collider).graph().markov_blanket("a") == {"b", "c"}
    assert program(chain).graph().parents("c") == {"b"}
    assert program(chain).graph().children("a") == {"b"}
    assert program(collider).graph().order() == ["a", "c", "b", "d"]


@pytest.mark.parametrize(
    ("ask", "said"),
    [
        (lambda g: g.parents("thet"), "did you mean 'theta'"),
        (lambda g: g.markov_blanket("nothing at all"), "its sites are mu, tau, z, theta, y"),
        (lambda g: g.d_separated("mu", "tua"), "has no site 'tua'"),
        (lambda g: g.d_separated("mu", "mu"), r"\['mu'\] on two sides"),
    ],
)
def test_a_wrong_name(ask: Callable[[DependenceGraph], Any], said: str) -> None:
    with pytest.raises(ProgramError, match=said):
        ask(schools.graph(SIGMA))


# ---------------------------------------------------------------------------------------- pictures


def test_text() -> None:
    assert repr(schools.graph(SIGMA)) == (
        "dependence of schools\n"
        "  mu\n"
        "  tau\n"
        "  z  in school\n"
        "  theta derived <- mu, tau, z  in school\n"
        "  y observed <- mu, tau, z  in school"
    )


def test_graphviz() -> None:
    assert program(a_pyro_model).graph().to_dot() == (
        "digraph {\n"
        '  "a" [shape=ellipse];\n'
        '  subgraph "cluster_data" {\n'
        '    label="data";\n'
        '    "y" [shape=ellipse, style=filled, fillcolor=lightgrey];\n'
        "  }\n"
        '  "a" -> "y";\n'
        "}"
    )
    nested = program(nested_plates).graph().to_dot()
    assert 'subgraph "cluster_outer/inner" {' in nested


def test_picture() -> None:
    ax = schools.graph(SIGMA).plot()
    texts = {text.get_text() for text in ax.texts} - {""}
    assert texts == {"mu", "tau", "z", "theta", "y", "school"}
    frames = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    assert len(frames) == 1
    inside = {t.get_text() for t in ax.texts if frames[0].get_bbox().contains(*t.get_position())}
    assert inside - {"school", ""} == {"z", "theta", "y"}
    matplotlib.pyplot.close(ax.figure)


def test_an_empty_program() -> None:
    graph = program(lambda: None).graph()
    assert graph.names() == []
    assert graph.components() == []
    assert graph.to_dot() == "digraph {\n}"
    matplotlib.pyplot.close(graph.plot().figure)


def test_the_gap_measures_dependence() -> None:
    assert dependence_of(joint(chain), "a", "c", ()) > 1e-3
    assert math.isclose(sum(joint(chain).values()), 1)


def test_the_value_and_the_mask_of_a_score_count() -> None:
    """An observed value that is random, and a branch that is taken by a choice."""

    def model() -> None:
        x = sample("x", dist.Bernoulli(0.5))
        y = sample("y", dist.Normal(0.0, 1.0))
        observe("value", dist.Normal(0.0, 1.0), y)
        cond(x > 0, lambda: factor("yes", torch.tensor(1.0)), lambda: factor("no", 0.5 * y))()

    graph = program(model).graph()
    assert graph.parents("value") == {"y"}
    assert graph.parents("yes") == {"x"}
    assert graph.parents("no") == {"x", "y"}
    lanes = program(lambda: vmap(lambda _: model())(torch.zeros(2))).graph()
    assert lanes.parents("value") == {"y"}
    assert lanes.parents("no") == {"x", "y"}
    assert not graph.d_separated("x", "y")
