"""The parts of backward simulation: a filter that goes back by the choices of its steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ...ppl import vmap
from ...ppl.errors import ProgramError, PushforwardError, located
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.abstract_tensor import Mark, abstract, dependence
from ...ppl.tensors.hidden import is_hidden
from .filtering import Filtering
from .population import Population, collapse
from .step_choices import Given, Retraced

Looked = tuple[int, ...]  # which tensors of what is before the scan the later steps look at


class Path(NamedTuple):
    """A path down to the state after some step, and the choices of that step."""

    before: Any
    carry: Any
    choices: Given | None


def drawn_last(population: Population, made: Given | None) -> Path:
    """A particle by weight, as the path that ends there."""
    ((before, carry), choices), _ = collapse(population._replace(values=(population.values, made)))
    return Path(before, carry, choices)


def weighed(paths: Any, last: Population, spoilt: Tensor) -> Population:
    """Paths with the evidence of particles, n times too heavy, each; NaN where one is spoilt."""
    each = last.log_evidence() - math.log(len(last.log_weights))
    return Population(paths, each + spoilt.sum(1).to(each.dtype))


@dataclass(frozen=True)
class Smoothing(Filtering):
    """A filter that keeps the choices of its steps, and goes back by them."""

    def _advance(self, particle: Any, t: int | Tensor, *args: Any) -> tuple[Any, Any, Tensor]:
        choices = Retraced() if self.proposal is None else self.proposed(args)
        particle, output, log_weight = self.through(particle, t, choices, args)
        return particle, (output, choices.made), log_weight - choices.log_density

    def back(
        self,
        path: Path,
        t: int | Tensor,
        population: Population,
        made: Given | None,
        looked: Looked,
        *args: Any,
    ) -> tuple[Path, Any]:
        """A particle from which the path goes on by step t, and what it makes of that step.

        Returns the path from that particle on, and the output of the step; whether the step leads
        from a particle of positive weight astray; and NaN if a weight is none.
        """
        t = t if is_hidden(t) else int(t)
        axes = (0, *(None,) * (2 + len(args)))
        reached, outputs, log_densities = vmap(self.retraced, axes, self.particles)(
            population.values, path.choices, t, *args
        )
        log_weights = population.log_weights + log_densities
        if looked:
            theirs, ours = ([tree_leaves(x)[k] for k in looked] for x in
                            (population.values[0], path.before))  # fmt: skip
            apart = vmap(differ, (0, None))(theirs, ours)
            log_weights = torch.where(apart, -torch.inf, log_weights)
        differs = vmap(differ, (0, None), self.particles)(reached, path.carry)
        astray = (differs & (log_weights > -torch.inf)).any()
        weighed = population._replace(
            values=(population.values, made, outputs), log_weights=log_weights
        )
        ((before, carry), choices, output), total = collapse(weighed)
        lost = torch.isnan(total) | (total == torch.inf) | astray
        return Path(before, carry, choices), (output, astray, torch.where(lost, torch.nan, 0.0))

    def retraced(
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


def differ(ours: Any, theirs: Any) -> Tensor:
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


def require_markov(model: Callback, astray: Tensor) -> None:
    """Raise if a step led another particle astray; paths [draws, steps]."""
    if is_hidden(astray) or not bool(astray.any()):
        return
    t = int(astray.any(0).nonzero()[0])
    what = f"{program_name(model)} is not Markov in its choices: those of step {t} lead from other"
    what += " particles to another carry"
    hint = "carry no more than what the step chooses, or use particle_filter, which keeps lines"
    raise ProgramError(located(what, hint=hint))
