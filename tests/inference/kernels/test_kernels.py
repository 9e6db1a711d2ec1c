"""Kernels on traces: checks 13 to 16, exactly, with kernels that are wrong.

Rows of transition matrices, stationary laws and flows are exact rationals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction as F
from typing import Any

import pytest
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pushforward import dist, draw, factor, observe, program, sample, vmap
from pushforward.errors import InitializationError, ProgramError
from pushforward.inference import MCMC
from pushforward.inference.kernels import (
    TraceKernel,
    barker,
    block,
    cycle,
    gibbs,
    independence,
    involutive,
    mixture,
    repeat,
    single_site,
    slice_site,
)
from pushforward.inference.kernels.kernel import Moved, decide, log_ratio, metropolis
from pushforward.inference.kernels.traces import Point, Traced, at, points_of, traced
from pushforward.semantics import check, denote

pytestmark = pytest.mark.usefixtures("double")


def flip(name: str, p: Any) -> Tensor:
    return sample(name, dist.Bernoulli(p))


def coin() -> None:
    x, y = flip("x", 1 / 3), flip("y", 1 / 2)
    factor("score", torch.tensor([0.1, 0.5, 0.9]).log()[(x + y).long()])


def var() -> None:
    """Traces of one and of two choices."""
    if flip("x", 1 / 2) == 1:
        y = flip("y", 1 / 3)
        factor("score", torch.where(y == 1, 0.0, math.log(1 / 2)))
    else:
        factor("score", torch.tensor(1 / 4).log())


def rs() -> None:
    """The support of y depends on x."""
    x = flip("x", 1 / 2)
    y = sample("y", dist.Categorical(torch.ones(2 if x == 1 else 3)))
    factor("score", ((y + 1.0) / 3).log())


State = tuple[float, ...]


def row(kernel: TraceKernel, p: Callable[[], Any], **choices: float) -> dict[State, float]:
    """Where one step leads from a trace, by the values of the choices in order."""
    start = {name: torch.tensor(value) for name, value in choices.items()}
    found: dict[State, float] = {}
    for (after, _), weight in denote(kernel.on(p), Point(start)).items():
        key = tuple(float(after[name]) for name in sorted(after))
        found[key] = found.get(key, 0.0) + weight
    return found


def law(*rows: tuple[State, str]) -> Any:
    return pytest.approx({state: float(F(weight)) for state, weight in rows}, abs=1e-12)


TT, TF, FT, FF = (1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0)


# ------------------------------------------------------------------------------------ single sites


def test_check_13_single_site_on_coin() -> None:
    kernel = single_site()
    assert row(kernel, coin, x=1.0, y=1.0) == law((TT, "73/108"), (TF, "5/36"), (FT, "5/27"))
    assert row(kernel, coin, x=0.0, y=0.0) == law((FF, "7/12"), (FT, "1/4"), (TF, "1/6"))
    stay = str(1 - F(1, 4) - F(1, 15))
    assert row(kernel, coin, x=1.0, y=0.0) == law((TF, stay), (TT, "1/4"), (FF, "1/15"))
    stay = str(1 - F(1, 20) - F(1, 6))
    assert row(kernel, coin, x=0.0, y=1.0) == law((FT, stay), (FF, "1/20"), (TT, "1/6"))
    check.reversible(kernel.on(coin), points_of(coin)).require()


def test_check_13_the_prior_after_one_step() -> None:
    def start() -> None:
        flip("x", 1 / 3), flip("y", 1 / 2)

    after = denote(points_of(start)).then(lambda c: denote(single_site().on(coin), c))
    found = {(float(c["x"]), float(c["y"])): w for (c, _), w in after.items()}
    assert found == law((TT, "17/81"), (TF, "26/135"), (FT, "152/405"), (FF, "2/9"))


def test_check_14_traces_of_two_lengths() -> None:
    kernel = single_site()
    assert row(kernel, var, x=0.0) == law(((0.0,), "1/2"), (TF, "1/3"), (TT, "1/6"))
    assert row(kernel, var, x=1.0, y=0.0) == law(((0.0,), "1/4"), (TT, "1/6"), (TF, "7/12"))
    assert row(kernel, var, x=1.0, y=1.0) == law(((0.0,), "1/8"), (TF, "1/6"), (TT, "17/24"))
    check.reversible(kernel.on(var), points_of(var)).require()
    assert denote(var).mass() == pytest.approx(11 / 24)


def test_check_14_a_support_that_changes_is_drawn_anew() -> None:
    kernel = single_site()
    from_f2 = row(kernel, rs, x=0.0, y=2.0)
    assert from_f2[(1.0, 1.0)] == pytest.approx(1 / 12)
    assert from_f2[(1.0, 0.0)] == pytest.approx(1 / 24)
    assert row(kernel, rs, x=1.0, y=1.0)[(0.0, 2.0)] == pytest.approx(1 / 12)
    check.reversible(kernel.on(rs), points_of(rs)).require()
    assert denote(rs).mass() == pytest.approx(7 / 12)


def without_lengths(run: Traced, p: Any, *args: Any) -> Moved:
    """Single-site Metropolis that forgets that the sites are picked among n and among n'."""
    names = list(run.choices)
    site = names[int(draw(dist.Categorical(torch.ones(len(names)))))]
    others = {name: value for name, value in run.choices.items() if name != site}
    proposed = traced(p, others, run.laws, *args)
    assert proposed is not None
    return decide(run, proposed, log_ratio(run, proposed), metropolis, site)


def test_check_14_leaving_out_the_lengths_is_rejected() -> None:
    report = check.invariant(TraceKernel(without_lengths, "short").on(var), points_of(var))
    assert report.verdict == "fail"
    assert "state" in report.counterexample
    check.invariant(TraceKernel(without_lengths, "short").on(coin), points_of(coin)).require()


def reusing(run: Traced, p: Any, *args: Any) -> Moved:
    """Keeps a value wherever it is possible, as if the way back drew it anew."""
    names = list(run.choices)
    site = names[int(draw(dist.Categorical(torch.ones(len(names)))))]
    others = {name: value for name, value in run.choices.items() if name != site}
    proposed = traced(p, others, {}, *args) or traced(p, {}, {}, *args)
    assert proposed is not None
    return decide(run, proposed, log_ratio(run, proposed), metropolis, site)


def test_check_14_reuse_across_supports_is_rejected() -> None:
    assert check.invariant(TraceKernel(reusing, "reusing").on(rs), points_of(rs)).verdict == "fail"


def test_a_program_without_choices_stays_as_it_is() -> None:
    def certain() -> None:
        factor("f", torch.tensor(0.5).log())

    assert row(single_site(), certain) == {(): 1.0}


# -------------------------------------------------------------------------------------------- Gibbs


def matrix(kernel: TraceKernel) -> Tensor:
    states = [TT, TF, FT, FF]
    rows = [row(kernel, coin, x=x, y=y) for x, y in states]
    return torch.tensor([[r.get(s, 0.0) for s in states] for r in rows])


def test_check_15_a_gibbs_update_is_a_projection() -> None:
    on_x = matrix(gibbs("x"))
    assert torch.allclose(on_x @ on_x, on_x, atol=1e-14)
    assert float(on_x[0, 0]) == pytest.approx(9 / 19)
    assert float(on_x[0, 2]) == pytest.approx(10 / 19)
    check.reversible(gibbs("x").on(coin), points_of(coin)).require()
    joint = matrix(gibbs(["x", "y"]))
    posterior = torch.tensor([9 / 26, 5 / 26, 5 / 13, 1 / 13])
    assert torch.allclose(joint, posterior.expand(4, 4), atol=1e-14)


def test_check_15_a_sweep_is_invariant_and_not_reversible() -> None:
    sweep = cycle(gibbs("x"), gibbs("y"))
    check.invariant(sweep.on(coin), points_of(coin)).require()
    assert row(sweep, coin, x=1.0, y=1.0) == law(
        (TT, "81/266"), (TF, "45/266"), (FT, "25/57"), (FF, "5/57")
    )
    assert check.reversible(sweep.on(coin), points_of(coin)).verdict == "fail"
    flows = torch.tensor([3 / 20, 1 / 12, 1 / 6, 1 / 30])[:, None] * matrix(sweep)
    assert float(flows[3, 1] - flows[1, 3]) == pytest.approx(2 / 441)


def test_gibbs_refuses_a_block_that_decides_about_others() -> None:
    with pytest.raises(ProgramError, match=r"the block \['x'\] decides about the choices \['y'\]"):
        gibbs("x").on(var)(Point({"x": torch.tensor(1.0), "y": torch.tensor(0.0)}))


# ------------------------------------------------------------------------------- proposals, Barker


def evenly() -> None:
    flip("x", 1 / 2), flip("y", 1 / 2)


def test_check_16_independence() -> None:
    kernel = independence(evenly)
    assert row(kernel, coin, x=1.0, y=1.0) == law(
        (TT, "5/9"), (TF, "5/36"), (FT, "1/4"), (FF, "1/18")
    )
    assert row(kernel, coin, x=0.0, y=0.0) == law(*((s, "1/4") for s in (TT, TF, FT, FF)))
    check.reversible(kernel.on(coin), points_of(coin)).require()


def test_check_16_barker() -> None:
    kernel = single_site(barker)
    assert row(kernel, coin, x=1.0, y=1.0) == law((TT, "19/24"), (TF, "5/56"), (FT, "5/42"))
    for p in (coin, var, rs):
        check.reversible(kernel.on(p), points_of(p)).require()


def leaning(choices: dict[str, Tensor]) -> None:
    """Proposes y by x, and not symmetrically."""
    flip("y", 0.2 + 0.5 * choices["y"] + 0.1 * choices["x"])


def both(choices: dict[str, Tensor]) -> None:
    y = flip("y", 0.2 + 0.5 * choices["x"])
    flip("x", 0.9 - 0.6 * y)


@pytest.mark.parametrize("proposal", [leaning, both])
@pytest.mark.parametrize("accept", [metropolis, barker])
def test_a_block_with_its_own_proposal(proposal: Any, accept: Any) -> None:
    check.reversible(block(proposal, accept).on(coin), points_of(coin)).require()


def test_a_block_that_changes_which_choices_there_are() -> None:
    """y appears and goes with x: it is drawn from its law, there and back."""

    def other_x(choices: dict[str, Tensor]) -> None:
        flip("x", 0.3 + 0.4 * choices["x"])

    check.reversible(block(other_x).on(var), points_of(var)).require()
    check.reversible(block(other_x).on(rs), points_of(rs)).require()


def test_a_proposal_outside_the_support_is_rejected_as_a_move() -> None:
    def positive() -> None:
        n = sample("n", dist.Categorical(torch.ones(3)))
        factor("f", (n + 1.0).log())

    def walk(choices: dict[str, Tensor]) -> None:
        step = draw(dist.Categorical(torch.ones(2)))
        sample("n", dist.Delta(choices["n"] + 2 * step - 1))

    # a Delta has a density of one in both directions
    check.reversible(block(walk).on(positive), points_of(positive)).require()


def test_a_proposal_must_name_sites_of_both_runs() -> None:
    def misspelt(choices: dict[str, Tensor]) -> None:
        flip("z", 0.5)

    def only_there(choices: dict[str, Tensor]) -> None:
        flip("x" if choices["x"] == 1 else "y", 0.5)

    start = Point({"x": torch.tensor(1.0), "y": torch.tensor(1.0)})
    with pytest.raises(ProgramError, match=r"misspelt proposes \['z'\], which the run has not"):
        block(misspelt).on(coin)(start)
    with pytest.raises(ProgramError, match=r"which the way back has not"):
        denote(block(only_there).on(coin), start)


# ------------------------------------------------------------------------------------- involutions


def test_an_involution_of_discrete_choices() -> None:
    def which(choices: dict[str, Tensor]) -> None:
        flip("site", 0.25)

    def turn(choices: Any, others: Any) -> Any:
        name = "x" if others["site"] == 1 else "y"
        return {**choices, name: 1 - choices[name]}, others

    check.reversible(involutive(which, turn).on(coin), points_of(coin)).require()
    assert row(involutive(which, turn), coin, x=1.0, y=1.0)[FT] == pytest.approx(1 / 4)


def test_an_involution_between_traces_of_two_lengths() -> None:
    def fresh(choices: dict[str, Tensor]) -> None:
        if choices["x"] == 0:
            flip("new", 0.8)

    def jump(choices: Any, others: Any) -> Any:
        if choices["x"] == 0:
            return {"x": torch.tensor(1.0), "y": others["new"]}, {}
        return {"x": torch.tensor(0.0)}, {"new": choices["y"]}

    check.reversible(involutive(fresh, jump).on(var), points_of(var)).require()


def test_no_involution_is_refused() -> None:
    def nothing(choices: dict[str, Tensor]) -> None:
        del choices

    def lose(choices: Any, others: Any) -> Any:
        return {**choices, "x": torch.tensor(1.0)}, others

    with pytest.raises(ProgramError, match="lose is no involution: twice applied it does not"):
        involutive(nothing, lose).on(coin)(Point({"x": torch.tensor(0.0), "y": torch.tensor(1.0)}))


def gamma() -> None:
    sample("r", dist.Gamma(2.0, 1.0))


def stretch(choices: dict[str, Tensor]) -> None:
    sample("u", dist.Normal(0.0, 0.5))


def scaled(choices: Any, others: Any) -> Any:
    """r -> r e^u, u -> -u, with Jacobian e^u."""
    return {"r": choices["r"] * others["u"].exp()}, {"u": -others["u"]}


class Answers(Messenger):  # type: ignore[misc]
    """Draws u for the auxiliary choice, accepts, and notes with which probability."""

    def __init__(self, u: float) -> None:
        super().__init__()
        self.u, self.accepted = u, 0.0

    def _pyro_sample(self, msg: Any) -> None:
        asked = msg["fn"].__class__.__name__ == "Bernoulli"
        if asked:
            self.accepted = float(msg["fn"].probs)
        msg["value"], msg["done"] = torch.tensor(1.0 if asked else self.u), True


@pytest.mark.parametrize("r", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("u", [-0.7, 0.2, 1.1])
def test_the_jacobian_of_an_involution(r: float, u: float) -> None:
    """r e^-r Normal(u; 0, 1/2) at r, u and at r e^u, -u, with the Jacobian e^u of that map."""
    run = at(gamma, Point({"r": torch.tensor(r)}))
    with Answers(u) as answers:
        moved = involutive(stretch, scaled).step(run, gamma)
    after = r * math.exp(u)
    assert float(moved.run.choices["r"]) == pytest.approx(after)
    ratio = after * math.exp(-after) * math.exp(u) / (r * math.exp(-r))
    assert answers.accepted == pytest.approx(min(1.0, ratio), abs=1e-12)
    without = after * math.exp(-after) / (r * math.exp(-r))
    assert abs(min(1.0, without) - min(1.0, ratio)) > 1e-3 or min(without, ratio) > 1


# ------------------------------------------------------------------------------------ compositions


def test_compositions_are_invariant() -> None:
    kernels = (
        repeat(single_site(), 2),
        mixture(single_site(), gibbs("y"), weights=[0.3, 0.7]),
        cycle(gibbs("x"), single_site(barker)),
    )
    for kernel in kernels:
        check.invariant(kernel.on(coin), points_of(coin)).require()
    check.reversible(kernels[1].on(coin), points_of(coin)).require()
    # a palindrome is reversible
    palindrome = cycle(gibbs("x"), gibbs("y"), gibbs("x"))
    check.reversible(palindrome.on(coin), points_of(coin)).require()


def test_compositions_of_nothing_are_refused() -> None:
    for attempt in (cycle, mixture, lambda: repeat(single_site(), 0)):
        with pytest.raises(ProgramError, match="needs at least one"):
            attempt()
    with pytest.raises(ProgramError, match="needs 2 positive weights"):
        mixture(single_site(), single_site(), weights=[1.0, 0.0])


# ----------------------------------------------------------------------------------------- starts


def test_a_start_of_density_zero_is_refused() -> None:
    def must() -> None:
        factor("f", flip("x", 0.5).log())

    with pytest.raises(InitializationError, match=r"the density of .*must is zero at the start"):
        single_site().on(must)(Point({"x": torch.tensor(0.0)}))
    with pytest.raises(InitializationError, match=r"differ in \['y'\]"):
        single_site().on(coin)(Point({"x": torch.tensor(0.0)}))


def test_lanes_and_loops_are_sites_too() -> None:
    def many() -> None:
        x = vmap(lambda p: flip("x", p))(torch.tensor([0.2, 0.7]))
        observe("y", dist.Bernoulli(0.2 + 0.3 * x.sum()), torch.tensor(1.0))

    check.reversible(single_site().on(many), points_of(many)).require()
    check.reversible(gibbs("x").on(many), points_of(many)).require()


def test_kernels_run_on_programs_that_are_called() -> None:
    inner = program(coin)

    def outer() -> None:
        inner()
        flip("z", 0.5)

    check.reversible(single_site().on(outer), points_of(outer)).require()


def test_gibbs_on_a_block_whose_laws_exclude_values() -> None:
    """A value that is impossible where the chain stands may be possible elsewhere in the block."""

    def doors() -> None:
        car = sample("car", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        opens = torch.tensor([[0.0, 0.5, 0.5], [0.0, 0.0, 1.0], [0.0, 1.0, 0.0]])[car]
        door = sample("door", dist.Categorical(opens))
        factor("seen", torch.tensor([0.0, -0.3, -1.0])[door])

    kernel = gibbs(["car", "door"]).on(doors)
    check.invariant(kernel, points_of(doors)).require()
    check.reversible(kernel, points_of(doors)).require()


# --------------------------------------------------------------- auxiliary choices of whole numbers

SWAP = torch.tensor([0.0, 2.0, 1.0])


@pytest.mark.parametrize(
    "law", [dist.Binomial(2, torch.tensor(0.3)), dist.Categorical(torch.tensor([0.5, 0.3, 0.2]))]
)
@pytest.mark.parametrize("write", ["table", "division"])
def test_whole_numbers_have_no_jacobian_whatever_their_dtype(law: Any, write: str) -> None:
    """u -> (0, 2, 1)[u] with x -> 1 - x: a permutation, written by a table or as 2 / u."""

    def model() -> Tensor:
        x = sample("x", dist.Bernoulli(torch.tensor(0.3)))
        factor("w", torch.where(x == 1, 2.0, 0.5).log())
        return x

    def auxiliary(choices: Any) -> None:
        sample("u", law)

    def swap(choices: Any, others: Any) -> Any:
        u = others["u"]
        moved = SWAP[u.long()]
        if write == "division":
            real = u.double()
            moved = torch.where(real == 0, -real, 2 / torch.where(real == 0, 1.0, real))
        return {"x": 1 - choices["x"]}, {"u": moved.to(u.dtype)}

    kernel = involutive(auxiliary, swap).on(model)
    assert check.invariant(kernel, points_of(model)).verdict == "pass"
    assert check.reversible(kernel, points_of(model)).verdict == "pass"


def test_a_slice_is_for_real_numbers() -> None:
    def model() -> Tensor:
        return sample("n", dist.Poisson(torch.tensor(2.0)))

    with pytest.raises(ProgramError, match="no real number"):
        MCMC(slice_site("n"), chains=1, draws=2, warmup=0, progress=False).run(model)
