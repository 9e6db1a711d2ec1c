"""Every distribution under every interpretation: it works, or it is refused by name.

``python tests/test_every_distribution.py`` writes the table to docs/distributions.md.
"""

from __future__ import annotations

import copy
import inspect
import math
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pyro.distributions as dist
import pytest
import torch
from support.every_distribution import LAWS, NO_LAWS, Law, f
from support.sizes import quick
from torch import Tensor

from pushforward.errors import PushforwardError
from pushforward.ppl import (
    assess,
    compiled,
    condition,
    draw,
    observe,
    program,
    sample,
    scan,
    seeded,
    simulate,
    vmap,
    weighted,
)
from pushforward.ppl.compile import loops
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.compile.lanes.rewrites import rewritten
from pushforward.ppl.compile.lanes.translation import Unsupported
from pushforward.ppl.distributions.laws import Censored, Hurdle
from pushforward.ppl.distributions.masks import unmasked
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.errors import implemented
from pushforward.ppl.interpretations.abstract_run import placeholder
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture, capture_vector
from pushforward.semantics import denote

pytestmark = [
    # of laws, or of torch inside them; they change no number
    pytest.mark.filterwarnings("ignore:class LKJCorrCholesky:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Singular sample detected:UserWarning"),
    pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning"),
]
PAGE = Path(__file__).parents[3] / "docs" / "distributions.md"
ONE = f(1.0)
SCALES = f([0.9, 1.0, 1.1])


def law_of(build: Law) -> Any:
    return lambda: sample("x", build(ONE))


def whole(build: Law) -> Law:
    """The law of a latent: masks concern scores only."""
    return lambda s: unmasked(build(s))


def a_value(build: Law) -> Tensor:
    """A draw, or where there is no sampler a point of the support."""
    try:
        with seeded(0):
            return build(ONE).sample()
    except NotImplementedError:
        with implemented():
            return placeholder(build(ONE))


def density(build: Law, s: Tensor, value: Tensor) -> Tensor:
    """The log density by the distribution itself, one lane at a time."""
    total: Tensor = build(s).log_prob(value).sum()
    if bool(total.isnan()):
        raise RuntimeError("the law gives NaN to its own draw")
    return total


def check_sample(build: Law) -> str:
    trace = simulate(law_of(build), seed=0)
    d = build(ONE)
    assert trace.choices["x"].shape == d.batch_shape + d.event_shape
    return "yes"


def check_log_density(build: Law) -> str:
    value = a_value(build)
    found, _ = assess(law_of(build), {"x": value})
    torch.testing.assert_close(found, density(whole(build), ONE, value), rtol=1e-10, atol=1e-10)
    return "yes"


def check_abstract_run(build: Law) -> str:
    before = torch.get_rng_state()
    text = str(program(law_of(build)).type())
    assert torch.equal(torch.get_rng_state(), before)
    assert text.startswith("{x: ")
    return f"`{text[len('{x: ') : text.index('}')]}`"


def check_vmap(build: Law) -> str:
    """Lanes draw independently, once and twice nested, and have the densities of a loop."""
    with seeded(0):
        lanes = vmap(lambda s: draw(build(s)))(SCALES)
        nested = vmap(lambda s: vmap(lambda: draw(build(s)), size=2)())(SCALES)
        many = vmap(lambda: draw(build(ONE)), size=60)()
    d = build(ONE)
    assert lanes.shape == (3, *d.batch_shape, *d.event_shape)
    assert nested.shape == (3, 2, *d.batch_shape, *d.event_shape)
    if isinstance(d, dist.Unit):
        return "yes"
    distinct = len(torch.unique(many.reshape(60, -1), dim=0))
    if isinstance(d, dist.Delta):
        assert distinct <= 1
    else:
        assert (
            distinct == 60
            if d.support and not d.support.is_discrete and _smooth(d)
            else distinct > 1
        )
    found = vmap(lambda s, v: weighted(lambda: observe("x", build(s), v))()[1])(SCALES, lanes)
    loop = torch.stack([density(build, s, v) for s, v in zip(SCALES, lanes, strict=True)])
    torch.testing.assert_close(found, loop, rtol=1e-10, atol=1e-10)
    return "yes"


def _smooth(d: Any) -> bool:
    """Whether equal draws have probability zero."""
    return not isinstance(
        d,
        Censored
        | Hurdle
        | dist.Empirical
        | dist.MaskedDistribution
        | dist.RelaxedBernoulliStraightThrough
        | dist.RelaxedOneHotCategoricalStraightThrough,
    )


def slope_of(value: Tensor, leaf: Tensor) -> Tensor:
    """The derivative, zero where the value does not depend on the leaf."""
    (slope,) = torch.autograd.grad(value + 0.0 * leaf.sum(), leaf)
    return slope


def check_capture(build: Law) -> str:
    """Observed, with a random scale: the captured graph has the densities of a loop."""
    value = a_value(build)

    def model() -> None:
        s = sample("s", dist.LogNormal(f(0.0), f(0.1)))
        observe("x", build(s), value)

    u = f([[0.05], [-0.05]])
    found, gradient = capture(LogDensity(model), u)(u)
    prior = dist.Normal(f(0.0), f(0.1))
    for i, row in enumerate(u):
        leaf = row[0].clone().requires_grad_()
        expected = prior.log_prob(leaf) + density(build, leaf.exp(), value)
        torch.testing.assert_close(found[i], expected.detach(), rtol=1e-8, atol=1e-8)
        slope = slope_of(expected, leaf)
        torch.testing.assert_close(gradient[i, 0], slope, rtol=1e-6, atol=1e-6)
    return "yes"


def check_latent(build: Law) -> str:
    """As a latent: the captured density in unconstrained coordinates, and its gradient."""
    joint = LogDensity(law_of(build))
    u = torch.linspace(-0.4, 0.6, 2 * joint.layout.size, dtype=torch.float64).reshape(2, -1)
    found, gradient = capture(joint, u)(u)
    for i, row in enumerate(u):
        leaf = row.clone().requires_grad_()
        values, log_det = joint.layout.unpack(leaf)
        expected = density(whole(build), ONE, values["x"]) + log_det
        assert bool(expected.isfinite())
        torch.testing.assert_close(found[i], expected.detach(), rtol=1e-8, atol=1e-8)
        slope = slope_of(expected, leaf)
        torch.testing.assert_close(gradient[i], slope, rtol=1e-6, atol=1e-6)
    return "yes"


def check_lane_code(build: Law) -> str:
    """As a latent with a random scale, or observed: in lane code, to 1e-12 of the graph."""

    def latent() -> None:
        sample("x", build(sample("s", dist.LogNormal(f(0.0), f(0.1)))))

    try:
        joint = LogDensity(latent)
    except (PushforwardError, NotImplementedError):
        joint = LogDensity(condition(latent, {"x": a_value(build)}))
    u = 0.4 * torch.sin(torch.arange(1.0, 1.0 + 3 * joint.layout.size, dtype=torch.float64))
    u = u.reshape(3, -1)
    graph = fold(capture_vector(joint, u[0]))
    try:
        function = LaneFunction(rewritten(copy.deepcopy(graph)), u)
    except Unsupported:
        return "Inductor"
    for k, found in enumerate(zip(*function(u), strict=True)):
        for exact, each in zip(graph(u[k]), found, strict=True):
            scale = float(exact.double().abs().max())
            torch.testing.assert_close(each, exact.to(each.dtype), rtol=1e-12, atol=1e-14 * scale)
    return "yes"


def check_enumerate(build: Law) -> str:
    measure = denote(law_of(build))
    assert measure.mass() == pytest.approx(1.0, abs=1e-12)
    for value, weight in measure.items():
        exact = float(density(build, ONE, value).exp())
        assert weight == pytest.approx(exact, abs=1e-12) or build(ONE).log_prob(value).numel() != 1
    return "yes"


# torch's Bessel functions are polynomials, off by 2e-8
BY_BESSEL_FUNCTIONS = [LAWS["SineSkewed"], LAWS["SineBivariateVonMises"]]


def check_quadrature(build: Law) -> str:
    """The mass is one, within ten times the error that the measure states."""
    measure = denote(law_of(build), quadrature=64)
    gap = abs(measure.mass() - 1.0)
    if build is LAWS["TruncatedPolyaGamma"]:  # a truncated series, with a truncated support
        assert 1e-7 < gap < 1e-5
        return "mass is not one"
    known = 1e-7 if build in BY_BESSEL_FUNCTIONS else 1e-9
    assert gap <= max(known, 10 * measure.error)
    return "yes" if gap < 1e-6 else f"to {10 ** math.ceil(math.log10(gap)):g}"


def check_compiled(build: Law) -> str:
    """The steps of a traced loop draw as those of the loop itself."""

    def step(x: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        return x, draw(build(s))

    def run() -> Any:
        return scan(step)(ONE, SCALES)

    with seeded(0):
        expected = run()[1]
    with (
        seeded(0),
        warnings.catch_warnings(record=True) as told,
        patch.object(loops, "compile_graph", lambda graph, *example, **options: graph),
    ):
        warnings.simplefilter("always")
        found = compiled(program(run))()[1]
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10, equal_nan=True)
    return "as it is" if any("not compiled" in str(each.message) for each in told) else "yes"


COLUMNS: dict[str, Callable[[Law], str]] = {
    "sample": check_sample,
    "log density": check_log_density,
    "type": check_abstract_run,
    "vmap": check_vmap,
    "compiled": check_compiled,
    "capture": check_capture,
    "latent": check_latent,
    "lane code": check_lane_code,
    "enumerate": check_enumerate,
    "quadrature": check_quadrature,
}


def fails_in_pyro(build: Law) -> bool:
    """Whether the law cannot even score its own draw, without this library."""
    with seeded(0):
        try:
            s = ONE.clone().requires_grad_()
            d = build(ONE)
            slope_of(density(build, s, d.rsample() if d.has_rsample else d.sample()), s)
        except (RuntimeError, NotImplementedError, ValueError):
            return True
    return False


def row(name: str) -> list[str]:
    """What each interpretation says to a law: ``yes`` (or its type), or the error's name."""
    cells = []
    for check in COLUMNS.values():
        try:
            cells.append(check(LAWS[name]))
        except PushforwardError as error:
            cells.append(type(error).__name__)
        except (RuntimeError, NotImplementedError, ValueError):
            if not fails_in_pyro(LAWS[name]):
                raise
            cells.append("fails in Pyro")
    return cells


INTRODUCTION = """# Distributions

What each distribution can do here. A name of an error means that it is refused with that error,
and that the message says why. The table is made and compared by a test.

- *sample*: `simulate`. *log density*: `assess`. *type*: the space that the abstract run infers.
- *vmap*: lanes draw independently, under `vmap` and nested, and densities are those of a loop.
- *compiled*: a `compiled` loop draws it as the loop does, or runs *as it is* and says so.
- *capture*: observed with a random parameter, its density and gradient as one graph.
- *latent*: as an unknown of NUTS, SVI or SMC, in unconstrained coordinates.
- *lane code*: its density is compiled for NUTS by the system's compiler, or else by *Inductor*.
- *enumerate*: `denote` without, *quadrature*: with 64 nodes for each coordinate; the mass is one,
  or off by less than the figure.

*fails in Pyro*: the distribution cannot score its own float64 draws, without this library.

"""


def page(rows: dict[str, list[str]]) -> str:
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 1) + "|"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in rows.items()]
    return INTRODUCTION + "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", quick(list(LAWS).index("AR") + 4, LAWS))
def test_a_law_does_what_the_table_says(name: str) -> None:
    line = f"| {name} | {' | '.join(row(name))} |"
    assert line in PAGE.read_text().splitlines(), f"the page says otherwise: {line}"


TORCH_REFUSES = ("Beta", "Dirichlet", "StudentT", "Cauchy", "Geometric", "MultivariateNormal")
TORCH_REFUSES += ("LKJCholesky", "Weibull", "Pareto", "Laplace", "Exponential", "VonMises")
TORCH_REFUSES += ("Multinomial",)


@pytest.mark.parametrize("name", TORCH_REFUSES)
def test_draws_work_in_lanes_where_torch_refuses_them(name: str) -> None:
    """Torch's own vmap cannot sample these; ``draw`` can, as the table says."""
    with pytest.raises(RuntimeError), no_validation():
        torch.func.vmap(lambda s: LAWS[name](s).sample(), randomness="different")(SCALES)
    with seeded(0):
        assert len(vmap(lambda s: draw(LAWS[name](s)))(SCALES)) == 3


def test_the_page_has_these_laws_and_no_others() -> None:
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    assert [line.split(" | ")[0][2:] for line in lines[1:]] == list(LAWS)
    assert PAGE.read_text().startswith(INTRODUCTION)


def test_no_distribution_of_torch_or_pyro_is_left_out() -> None:
    kinds = {
        name
        for name, kind in vars(dist).items()
        if inspect.isclass(kind) and issubclass(kind, torch.distributions.Distribution)
    }
    kinds |= {name for name in torch.distributions.__all__ if name in dir(dist)} & kinds
    assert kinds - NO_LAWS - LAWS.keys() == set()
    for name in kinds & LAWS.keys():
        made = [type(LAWS[name](ONE)), *type(LAWS[name](ONE)).__mro__]
        assert name in {kind.__name__ for kind in made} or name == "Independent"


if __name__ == "__main__":
    failed = {}
    table = {}
    for law in LAWS:
        try:
            table[law] = row(law)
        except Exception as problem:  # shown, and the page is not written
            failed[law] = problem
    for law, problem in failed.items():
        print(f"{law}: {type(problem).__name__}: {str(problem)[:300]}")
    if failed:
        sys.exit(f"{len(failed)} laws neither work nor are refused by name")
    after = PAGE.read_text().partition("\n## ")  # the table ends where the next section begins
    PAGE.write_text(page(table) + "".join(after[1:]))
    print(f"{len(table)} laws written to {PAGE.name}")
