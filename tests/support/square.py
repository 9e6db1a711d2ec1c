"""The agreement square: one term, evaluated in every way that the library has.

Each function returns the measure of a term as a dict from plain values to weights, so that any two
can be compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

from pushforward import assess, simulate
from pushforward.ppl.calculus import syntax as s
from pushforward.ppl.calculus.elaborate import elaborate
from pushforward.ppl.calculus.pretty import pretty
from pushforward.ppl.distributions.validate import no_validation
from pushforward.ppl.errors import BudgetError
from pushforward.ppl.interpretations.abstract_run import abstract_run
from pushforward.ppl.interpretations.recorder import Recorder
from pushforward.ppl.language.handlers import Sealed
from pushforward.ppl.tensors.capture import DataStayReal, refusing
from pushforward.semantics import denote as evaluate
from pushforward.semantics import ideal, reference
from pushforward.semantics.checks.agreement import collected, plain

Plain = dict[Any, float]

TOLERANCE = 1e-10


class Mismatch(AssertionError):
    """Two evaluations of a term differ; the message is the term and both measures."""


def require_equal(term: s.Term, names: tuple[str, str], first: Plain, second: Plain) -> None:
    """Raise with the term as source unless two measures agree."""
    for value in {**first, **second}:
        a, b = first.get(value, 0.0), second.get(value, 0.0)
        if abs(a - b) > TOLERANCE * max(1.0, abs(a)):
            raise Mismatch(
                f"{names[0]} gives {value} the mass {a!r}, {names[1]} gives it {b!r}, for\n"
                f"{pretty(term)}"
            )


# -------------------------------------------------------------------------------- evaluations


def by_reference(term: s.Term) -> Plain:
    """Structural recursion in exact rationals."""
    return collected(reference.denote(term))


def by_cells(term: s.Term, budget: int) -> Plain:
    """The cells of Omega, one by one, in exact rationals."""
    return collected(reference.integrate(reference.random_element(term), budget=budget))


def by_enumeration(term: s.Term, merge: bool = True) -> Plain:
    """The exact evaluator on the elaborated program."""
    measure = evaluate(elaborate(term), merge=merge)
    return collected(measure.items())


def by_assessment(term: s.Term) -> Plain:
    """The density of every trace of the elaborated program, summed by result.

    One trace more is simulated: its density is what assessing it says.
    """
    p = elaborate(term)
    with ideal():
        pairs = []
        for choices, _ in evaluate(p, of="trace").atoms:
            log_density, value = assess(p, choices)
            pairs.append((value, math.exp(float(log_density))))
        trace = simulate(p, seed=0)
        log_density, value = assess(p, trace.choices)
        if plain(value) != plain(trace.value) or not _same(log_density, trace.log_density):
            raise Mismatch(f"simulate and assess differ on {trace.choices} of\n{pretty(term)}")
    return collected(pairs)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool(a == b) or abs(float(a) - float(b)) < TOLERANCE


def by_capture(term: s.Term, limit: int = 4096) -> Plain:
    """One captured graph of the elaborated program, on all traces at once as lanes."""
    return captured(elaborate(term), limit)


def captured(p: Callable[[], Any], limit: int = 4096) -> Plain:
    """The measure of a finite program by one captured graph of its density and its result.

    Its choices are numbers, or batches of them.  Both branches of a random condition run, so a
    trace has the sites of both; those of the one that is not taken keep their prior, which sums to
    one.

    Errors:
        BudgetError: there are more than ``limit`` traces.
    """
    run, _ = abstract_run(p)
    latents = {name: site.space for name, site in run.sites.items() if not site.observed}
    sizes = {name: math.prod(space.shape) for name, space in latents.items()}
    supports = [
        space.enumerate().to(torch.float64)
        for name, space in latents.items()
        for _ in range(sizes[name])
    ]
    count = math.prod(map(len, supports))
    if count > limit:
        raise BudgetError(f"{count} traces")
    lanes = list(torch.cartesian_prod(*supports).reshape(count, -1).T) if supports else []
    structure: list[Any] = []

    def density(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        entries = iter(values)
        given = {
            name: torch.stack([next(entries) for _ in range(sizes[name])]).reshape(space.shape)
            for name, space in latents.items()
        }
        with no_validation(), Sealed(), Recorder(given, density=True, validate=False) as recorder:
            leaves, spec = tree_flatten(p())
        structure.append(spec)
        return torch.as_tensor(recorder.log_density, dtype=torch.float64), *leaves

    def batched(*values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with DataStayReal():
            return torch.func.vmap(density)(*values) if values else density()

    with refusing():
        graph = make_fx(batched)(*lanes)
    log_densities, *columns = (column.expand(count) for column in graph(*lanes))
    return collected(
        (tree_unflatten([column[i] for column in columns], structure[-1]), math.exp(log_density))
        for i, log_density in enumerate(log_densities.tolist())
    )
