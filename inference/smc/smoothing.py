"""Backward simulation: whole paths of a program with a ``scan``, through the particles of a filter.

Godsill, Doucet and West 2004, "Monte Carlo smoothing for nonlinear time series".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ...ppl import scan, vmap
from ...ppl.errors import ProgramError, PushforwardError, located
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, Program, program_name, signature
from ...ppl.tensors.abstract_tensor import Mark, abstract, dependence
from ...ppl.tensors.hidden import is_hidden
from ...ppl.tensors.keys import Bookkeeping, Unkeyed, fingerprint
from .filtering import Filtering
from .population import Population, collapse
from .resampling import Scheme, systematic
from .step_choices import Given, Retraced

Looked = tuple[int, ...]  # which tensors of what is before the scan the later steps look at


def backward_simulation(
    model: Callback,
    particles: int,
    draws: int,
    scheme: Scheme = systematic,
    ess: float = 1.0,
    proposal: Callback | None = None,
    ahead: Callback | None = None,
) -> Program:
    """Paths drawn backward through a filter's particles; it returns a ``Population`` of them.

    The last particle of a path is drawn by weight, and at each earlier step one in proportion to
    its weight times the density of the path's next step from it.  The values are the results of the
    model, from the outputs of its scan along the path; each weight is the filter's evidence over
    ``draws``, times what the model scores after the scan.

    Invariant: E[sum_i w_i delta_{x_i}] is the model's measure, for all numbers and schemes.  Given
    the particles of a step, a next particle has, weighted, the density that sums weight times
    transition over them, by which the probability of the one chosen backward is divided: what is
    left in expectation is each of them, by weight, with a next step drawn from it, and so on down
    to the first.

    A path never changes over between particles of which the steps look at different choices from
    before the scan, such as unknown parameters: for those see ``pseudo_marginal``.

    Args:
        particles: of the filter, whose ``scheme``, ``ess``, ``proposal`` and ``ahead`` are those of
            ``particle_filter``.
        draws: paths, independent given the particles.

    Errors:
        ProgramError: the steps draw anonymously, or make different choices; or the same choices
            lead from other particles to another carry, so that no path could change over to them.
    """
    if min(particles, draws) < 1:
        raise ValueError("backward_simulation needs at least one particle and one path")
    smoothing = _Smoothing(model, particles, scheme, ess, proposal, ahead)
    checked, known = Bookkeeping(), _Known()

    def forward(state: tuple[Population, Any], t: Tensor) -> Any:
        population, args = state
        population, (_, made), _ = smoothing.step(population, t, True, *args)
        return (population, args), (population, made)

    def backward(state: tuple[_Path, Looked, Any], row: Any) -> Any:
        path, looked, args = state
        path, found = back(path, looked, args, *row)
        return (path, looked, args), found

    def back(path: _Path, looked: Looked, args: Any, *row: Any) -> Any:
        axes = (0, *(None,) * (len(row) + 1 + len(args)))
        return vmap(smoothing.back, axes, draws)(path, *row, looked, *args)

    def run(*args: Any) -> Population:
        hidden = any(map(is_hidden, tree_leaves(args)))
        if not hidden and (key := signature(args)) not in checked:
            smoothing.check(*args)
            checked.add(key)
        first, length = smoothing.begin(*args)
        if not length:
            raise ProgramError(located(f"the scan of {program_name(model)} has no steps"))
        times = torch.arange(length)
        (last, _), (populations, made) = scan(forward)((first, args), times)
        last.require_weights()
        key = "" if hidden else fingerprint(args)
        if hidden or key not in known:
            known[key] = smoothing.looked(populations.values, made, length, args)
        latest = tree_map(lambda x: None if x is None else x[-1], made)
        end = vmap(_last, (None, None), draws)(last, latest)
        rows = tree_map(lambda x: x[:-1].flip(0), (times + 1, populations, made))
        (path, looked, _), later = scan(backward)((end, known[key], args), rows)
        path, earliest = back(path, looked, args, 0, first, None)
        found = tree_map(lambda x: None if x is None else x[None], earliest)
        if later is not None:
            found = tree_map(_joined, found, later)
        outputs, astray, spoilt = tree_map(lambda x: None if x is None else x.movedim(0, 1), found)
        _require_markov(model, astray)
        paths = _weighed((path.before, end.carry), last, spoilt)
        return replace(smoothing, particles=draws).end(paths, outputs, *args).require_weights()

    run.__name__ = run.__qualname__ = f"backward_simulation({particles}, {draws})"
    return Program(run)


class _Known(dict[str, Looked], Unkeyed):
    """What the steps look at, by the fingerprint of the arguments."""


class _Path(NamedTuple):
    """A path down to the state after some step, and the choices of that step."""

    before: Any
    carry: Any
    choices: Given | None


def _last(population: Population, made: Given | None) -> _Path:
    """A particle by weight, as the path that ends there."""
    ((before, carry), choices), _ = collapse(population._replace(values=(population.values, made)))
    return _Path(before, carry, choices)


def _weighed(paths: Any, last: Population, spoilt: Tensor) -> Population:
    """Paths with the evidence of particles, n times too heavy, each; NaN where one is spoilt."""
    particles = len(last.log_weights)
    return Population(paths, last.log_evidence() + spoilt.sum(1) - math.log(particles))


@dataclass(frozen=True)
class _Smoothing(Filtering):
    """A filter that keeps the choices of its steps, and goes back by them."""

    def _advance(self, particle: Any, t: int | Tensor, *args: Any) -> tuple[Any, Any, Tensor]:
        choices = Retraced() if self.proposal is None else self.proposed(args)
        particle, output, log_weight = self.through(particle, t, choices, args)
        return particle, (output, choices.made), log_weight - choices.log_density

    def back(
        self,
        path: _Path,
        t: int | Tensor,
        population: Population,
        made: Given | None,
        looked: Looked,
        *args: Any,
    ) -> tuple[_Path, Any]:
        """A particle from which the path goes on by step t, and what it makes of that step.

        Returns the path from that particle on, and the output of the step; whether the step leads
        from a particle of positive weight astray; and NaN if a weight is none.
        """
        t = t if is_hidden(t) else int(t)
        axes = (0, *(None,) * (2 + len(args)))
        reached, outputs, log_densities = vmap(self._retraced, axes, self.particles)(
            population.values, path.choices, t, *args
        )
        log_weights = population.log_weights + log_densities
        if looked:
            theirs, ours = ([tree_leaves(x)[k] for k in looked] for x in
                            (population.values[0], path.before))  # fmt: skip
            apart = vmap(_differ, (0, None))(theirs, ours)
            log_weights = torch.where(apart, -torch.inf, log_weights)
        differs = vmap(_differ, (0, None), self.particles)(reached, path.carry)
        astray = (differs & (log_weights > -torch.inf)).any()
        weighed = population._replace(
            values=(population.values, made, outputs), log_weights=log_weights
        )
        ((before, carry), choices, output), total = collapse(weighed)
        lost = torch.isnan(total) | (total == torch.inf) | astray
        return _Path(before, carry, choices), (output, astray, torch.where(lost, torch.nan, 0.0))

    def _retraced(
        self, particle: Any, choices: Given, t: int | Tensor, *args: Any
    ) -> tuple[Any, Any, Tensor]:
        """The carry and output of step t with these choices, and their log density with scores."""
        (_, carry), output, log_density = self.through(particle, t, Retraced(choices), args)
        return carry, output, log_density

    def looked(self, particles: Any, made: Given, length: int, args: tuple[Any, ...]) -> Looked:
        """Which tensors of what is before the scan any step but the first looks at.

        All of them, where that cannot be known: then paths stay where these are equal.

        Args:
            particles: after each step [steps, particles, ...].
            made: the choices of each step, likewise.
        """
        count = len(tree_leaves(particles[0]))
        if not count or length == 1:
            return ()
        found: set[str] = set()

        def later(*args: Any) -> None:
            for t in range(1, length):
                found.update(self._dependence(particles, made, t, args))

        try:
            with Sealed():
                abstract_run(later, *args)
        except PushforwardError:
            return tuple(range(count))
        return tuple(sorted(map(int, found)))

    def _dependence(
        self, particles: Any, made: Given, t: int, args: tuple[Any, ...]
    ) -> frozenset[str]:
        """The numbers of the tensors before the scan on which step t depends, after some carry."""
        old, carry = tree_map(lambda x: None if x is None else x[t - 1, 0], particles)
        choices = tree_map(lambda x: x[t, 0], made)
        leaves, spec = tree_flatten(old)
        marked = [abstract(x, frozenset({Mark(str(k))})) for k, x in enumerate(leaves)]
        particle = tree_unflatten(marked, spec), carry
        (_, after), output, log_density = self.through(particle, t, Retraced(choices), args)
        return dependence((after, output, log_density))


def _differ(ours: Any, theirs: Any) -> Tensor:
    """Whether two trees of one structure differ by more than rounding."""
    pairs = zip(tree_leaves(ours), tree_leaves(theirs), strict=True)
    found = [_unequal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs if a is not None]
    return torch.stack([torch.tensor(False), *found]).any()


def _unequal(a: Tensor, b: Tensor) -> Tensor:
    if not (a.is_floating_point() and b.is_floating_point()):
        return (a != b).any()
    slack = torch.finfo(a.dtype).eps ** 0.75
    close: Tensor = ((a - b).abs() <= slack * (1.0 + b.abs())) | (a == b) | (a.isnan() & b.isnan())
    return ~close.all()


def _joined(first: Tensor | None, later: Tensor | None) -> Tensor | None:
    """What the first step made [1, ...] and then the later ones [steps - 1, ...], from last on."""
    return None if first is None or later is None else torch.cat([first, later.flip(0)])


def _require_markov(model: Callback, astray: Tensor) -> None:
    """Raise if a step led another particle astray; paths [draws, steps]."""
    if is_hidden(astray) or not bool(astray.any()):
        return
    t = int(astray.any(0).nonzero()[0])
    what = f"{program_name(model)} is not Markov in its choices: those of step {t} lead from other"
    what += " particles to another carry"
    hint = "carry no more than what the step chooses, or use particle_filter, which keeps lines"
    raise ProgramError(located(what, hint=hint))
