"""Random finite programs: their interpretations and the two exact evaluations agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sizes import quick
from torch import Tensor

from pushforward.inference import importance
from pushforward.ppl import (
    assess,
    cond,
    factor,
    iterate,
    observe,
    program,
    sample,
    scan,
    scope,
    simulate,
    vmap,
    weighted,
)
from pushforward.semantics import Measure, check, denote

Kernel = Callable[[Tensor], Tensor]

TOLERANCE = 1e-12


@dataclass(frozen=True)
class Term:
    """A program from a number in {0, 1, 2} to such a number, with its text."""

    run: Kernel
    text: str

    def __repr__(self) -> str:
        return self.text


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def coin(p: float, q: float) -> Term:
    """A coin whose chance depends on the argument."""
    return Term(lambda c: sample("x", dist.Bernoulli(f(p) + (q - p) * (c > 0))), f"coin({p}, {q})")


def die(weights: tuple[float, ...]) -> Term:
    def run(c: Tensor) -> Tensor:
        shift = f([0.0, 0.0, 1.0]) * c
        return sample("k", dist.Categorical(f(weights) + shift)).to(torch.float64)

    return Term(run, f"die{weights}")


def inside(p: Term, c: Tensor) -> Tensor:
    """The program p as a part of another, its names kept apart from theirs."""
    with scope("in"):
        return p.run(c)


def scored(p: Term, weights: tuple[float, ...]) -> Term:
    def run(c: Tensor) -> Tensor:
        x = inside(p, c)
        factor("w", f(weights).log()[x.long()])
        return x

    return Term(run, f"score({p}, {weights})")


def observed(p: Term, chance: float) -> Term:
    def run(c: Tensor) -> Tensor:
        x = inside(p, c)
        observe("o", dist.Bernoulli(chance / (1.0 + x)), f(1.0))
        return x

    return Term(run, f"observe({p}, {chance})")


def branch(p: Term, q: Term) -> Term:
    def run(c: Tensor) -> Tensor:
        with scope("pred"):
            b = sample("b", dist.Bernoulli(f(0.25) + 0.25 * (c > 1)))
        with scope("then"):
            return cond(b == 1, p.run, lambda c: 0.0 + q.run(c))(c)

    return Term(run, f"if({p}, {q})")


def repeated(p: Term, n: int) -> Term:
    return Term(lambda c: iterate(p.run, n)(c), f"iterate({p}, {n})")


def scanned(p: Term) -> Term:
    def step(c: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        c = p.run((c + x).clamp(max=2.0))
        return c, c

    def run(c: Tensor) -> Tensor:
        last, ys = scan(step)(c, f([0.0, 1.0]))
        return torch.where(ys[0] > ys[1], ys[0], last)

    return Term(run, f"scan({p})")


def lanes(p: Term) -> Term:
    return Term(lambda c: vmap(p.run)(torch.stack([c, 2.0 - c])).amax(), f"vmap({p})")


def reweighted(p: Term) -> Term:
    def run(c: Tensor) -> Tensor:
        value, log_weight = weighted(lambda c: inside(p, c))(c)
        factor("again", 0.5 * log_weight)
        return value

    return Term(run, f"weighted({p})")


def called(p: Term) -> Term:
    return Term(program(p.run), f"call({p})")


chances = st.sampled_from([0.25, 0.5, 0.75])
weights = st.tuples(*[st.sampled_from([0.5, 1.0, 2.0])] * 3)
scores = st.tuples(*[st.sampled_from([0.0, 0.25, 1.0, 2.0])] * 3)
terms = st.recursive(
    st.builds(coin, chances, chances) | st.builds(die, weights),
    lambda inner: st.one_of(
        st.builds(scored, inner, scores),
        st.builds(observed, inner, chances),
        st.builds(branch, inner, inner),
        st.builds(repeated, inner, st.integers(0, 2)),
        st.builds(scanned, inner),
        st.builds(lanes, inner),
        st.builds(reweighted, inner),
        st.builds(called, inner),
    ),
    max_leaves=3,
)
starts = st.sampled_from([f(0.0), f(1.0), f(2.0)])
exhaustive = settings(deadline=None, derandomize=True, database=None)


def small(term: Term) -> bool:
    """Whether naive enumeration stays cheap: loops and lanes multiply the number of paths."""
    text = term.text
    return text.count("scan") + text.count("iterate") + text.count("vmap") <= 2


@pytest.mark.parametrize("count", quick(1, [120, 400]))
def test_merging_agrees_with_enumeration_of_paths(count: int) -> None:
    @settings(exhaustive, max_examples=count)
    @given(terms.filter(small), starts)
    def run(term: Term, start: Tensor) -> None:
        merged, naive = denote(term.run, start), denote(term.run, start, merge=False)
        gap, where = merged.deviation(naive)
        assert gap <= TOLERANCE, f"{term} at {where}"

    run()


def structural(term: Term) -> bool:
    """Whether every choice has a name in the trace: weighted and lanes are told apart elsewhere."""
    return small(term) and "vmap" not in term.text and "weighted" not in term.text


@pytest.mark.parametrize("count", quick(1, [120, 400]))
def test_densities_of_all_traces_sum_to_the_measure(count: int) -> None:
    @settings(exhaustive, max_examples=count)
    @given(terms.filter(structural), starts)
    def run(term: Term, start: Tensor) -> None:
        atoms = []
        for choices, _ in denote(term.run, start, of="trace").items():
            log_density, value = assess(term.run, choices, start)
            atoms.append((value, float(log_density)))
        gap, where = Measure.of(atoms).deviation(denote(term.run, start))
        assert gap <= TOLERANCE, f"{term} at {where}"

    run()


@pytest.mark.parametrize("count", quick(1, [120, 400]))
def test_a_simulated_trace_has_its_assessed_density(count: int) -> None:
    @settings(exhaustive, max_examples=count)
    @given(terms.filter(structural), starts, st.integers(0, 100))
    def run(term: Term, start: Tensor, seed: int) -> None:
        trace = simulate(term.run, start, seed=seed)
        log_density, value = assess(term.run, trace.choices, start)
        assert torch.equal(value, trace.value)
        assert torch.equal(log_density, trace.log_density) or math.isclose(
            float(log_density), float(trace.log_density), abs_tol=1e-12
        )

    run()


@settings(exhaustive, max_examples=60)
@given(terms.filter(small), starts)
def test_importance_sampling_is_valid_for_any_program(term: Term, start: Tensor) -> None:
    check.valid(importance(term.run, 1), term.run, start).require()
