"""One particle of backward simulation as functions of numbers: also the way back by its steps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ....ppl.compile.agreement import agrees
from ....ppl.compile.lanes.translation import Unsupported
from ..backward import Smoothing, differ
from .code import Code, looked_at, traced
from .layout import Layout
from .particle import Particle


class PathParticle(Particle):
    """A particle whose steps hand on what they give to the scan, and then what they chose.

    ``back``: a function of a particle and of a path after step t (its choices at t, its carry, and
    what it chose before the scan), which gives the log density with which the particle goes on by
    those choices, whether they lead it to another carry (1, else 0), and what the step then gives.
    """

    filtering: Smoothing

    def __init__(self, smoothing: Smoothing, args: tuple[Any, ...]) -> None:
        super().__init__(smoothing, args)
        self.made = Layout.of(self._halves()[1])
        self.looked: list[int] = []
        example = *self._example(), *self.rest(args)
        if self.before.size:
            self.looked = self._looked(traced(self._back, *example)[0])
        self.back = Code(self._back, *example, places=self.steps)
        self.first_back = traced(self._first_back, *example)[0]
        if self.back.normal:
            raise Unsupported("a step that draws when its choices are given")
        again = looked_at(self.back.graph, self.before.size)
        self.moved = [a or b for a, b in zip(self.moved, again, strict=True)]

    @property
    def given(self) -> Layout:
        assert self.output is not None
        return Layout.of(self._halves()[0])

    def _halves(self) -> Any:
        """Zeros in place of what a step gives to the scan, and of what it chooses."""
        assert self.output is not None
        return self.output.tree(torch.zeros(self.output.size, dtype=self.dtype))

    def _example(self) -> tuple[Tensor, ...]:
        """A particle, the number of a step, and a path: its choices, carry, and those before."""
        sizes = self.made.size, self.carry.size, self.before.size
        path = (torch.full((max(n, 1),), 0.25, dtype=self.dtype) for n in sizes)
        return torch.full((self.size,), 0.25, dtype=self.dtype), torch.tensor(0), *path

    def _looked(self, graph: Any) -> list[int]:
        """Which tensors of what is before the scan a step looks at."""
        looked, first, found = looked_at(graph, self.before.size), 0, []
        for k, size in enumerate(self.before.sizes):
            if any(looked[first : first + size]):
                found.append(k)
            first += size
        return found

    def _back(
        self, u: Tensor, t: int | Tensor, made: Tensor, carry: Tensor, began: Tensor, *rest: Tensor
    ) -> tuple[Tensor, ...]:
        particle, choices = self.tree(u), self.made.tree(made[: self.made.size])
        args = self._args(rest)
        reached, given, log_density = self.filtering.retraced(particle, choices, t, *args)
        log_density = torch.as_tensor(log_density).to(u.dtype)
        ours = self.before.tree(began[: self.before.size])
        if self.looked:
            pairs = ([tree_leaves(x)[k] for k in self.looked] for x in (particle[0], ours))
            log_density = torch.where(differ(*pairs), -torch.inf, log_density)
        astray = differ(reached, self.carry.tree(carry[: self.carry.size]))
        return log_density, astray.to(u.dtype), self.given.vector(given, u.dtype)

    def _first_back(self, u: Tensor, t: Tensor, *about: Tensor) -> tuple[Tensor, ...]:
        """Step 0, as the program runs it, which knows that it is the first."""
        return self._back(u, 0, *about)

    def _agreements(self, rest: list[Tensor]) -> Iterator[tuple[str, bool]]:
        yield from super()._agreements(rest)
        begun = self.start.graph(self.with_noise(self.start), *rest)[0]
        step = self.step.graph(self.with_noise(self.step, begun), torch.tensor(0), *rest)
        _, _, *path = self._example()
        size = self.given.size
        for k, x in enumerate((step[2][size:], step[0], begun[: self.before.size])):
            path[k] = x if len(x) else path[k]
        u = begun if len(begun) else torch.zeros(1, dtype=self.dtype)
        for t, graph in ((0, self.first_back), (self.steps - 1, self.back.graph)):
            about = torch.tensor(t), *path, *rest
            yield f"way back by step {t}", agrees(self.back.function, graph, u[None], *about)
