"""The engine of ``backward.cpp`` from Python: backward simulation as one call."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ....ppl.compile.inductor import Notify
from ..backward import Smoothing, require_markov, weighed
from ..population import Population
from .engine import CodeOf, Engine, Filtered
from .path import PathParticle
from .quick import Kind, Quick, quick


class Drawn(NamedTuple):
    """Paths: state [numbers, draws], what was before the scan and what is carried at last.

    outputs [steps, numbers, draws]; astray [steps], where other particles would have been led to
    another carry; and spoilt [draws], NaN where a weight was none.
    """

    state: Tensor
    outputs: Tensor
    astray: Tensor
    spoilt: Tensor


class _Back(ctypes.Structure):
    _fields_ = [
        ("code", CodeOf),
        *((name, ctypes.c_long) for name in ("draws", "outputs", "choices")),
        *((name, ctypes.c_void_p) for name in ("made", "reached", "began", "first", "last")),
        *((name, ctypes.c_void_p) for name in ("found", "astray", "spoilt")),
    ]


class Paths(Engine):
    """Runs the filter of a particle, and draws so many paths backward."""

    particle: PathParticle

    def __init__(self, draws: int, particle: PathParticle) -> None:
        super().__init__(particle)
        self.draws, self._code = draws, self.prepared(particle.back)
        layouts = particle.made, particle.carry, particle.before
        self._path = [torch.zeros(max(x.size, 1), dtype=particle.dtype) for x in layouts]

    def drawn(
        self, rest: list[Tensor], key: Tensor, given: Tensor | None = None
    ) -> tuple[Filtered, Drawn]:
        """The particles at the end, and the paths; see ``Engine.__call__``."""
        kept, found = self.begun(rest, key, given)
        particle, n, steps = self.particle, self.run.particles, self.run.steps
        states = torch.empty(steps + 1, particle.size, n, dtype=particle.dtype)
        weights = torch.empty(steps + 1, n, dtype=torch.float64)
        self.place(states=states, weights=weights)
        size = particle.given.size
        paths = Drawn(
            torch.empty(particle.size, self.draws, dtype=particle.dtype),
            torch.empty(steps, size, self.draws, dtype=particle.dtype),
            torch.zeros(steps, dtype=torch.int64),
            torch.zeros(self.draws, dtype=torch.float64),
        )
        tables = particle.back.function.tables(self.time, *self._path, *rest)
        self._code.tables = ctypes.addressof(tables)
        made, reached, began = (x.data_ptr() for x in self._path)
        back = _Back(
            *(self._code, self.draws, size, particle.made.size, made, reached, began),
            first=paths.state.data_ptr(),
            last=paths.state[particle.before.size :].data_ptr(),
            found=paths.outputs.data_ptr(),
            astray=paths.astray.data_ptr(),
            spoilt=paths.spoilt.data_ptr(),
        )
        self._library.smoothed(ctypes.byref(self.run), ctypes.byref(back))
        del kept
        return found, paths


def quick_paths(
    smoothing: Smoothing,
    draws: int,
    args: tuple[Any, ...],
    notify: Notify | None,
    followed: bool = False,
) -> Quick | None:
    """Backward simulation as machine code, or None: see ``quick``."""
    kind = Kind(PathParticle, partial(Paths, draws), population)
    return quick(smoothing, args, notify, followed, kind)


def population(engine: Paths, key: Tensor, *args: Any, given: Tensor | None = None) -> Population:
    """Paths by the noise of a key, or by choices that are given: see ``Engine``."""
    particle = engine.particle
    rest = particle.rest(args)
    found, paths = engine.drawn(rest, key, given)
    last = Population(None, found.log_weights).require_weights()
    require_markov(particle.filtering.model, paths.astray[None] > 0)
    steps, _, draws = paths.outputs.shape
    rows = particle.given.tree(paths.outputs.permute(1, 2, 0).reshape(-1, draws * steps))
    outputs = tree_map(lambda x: None if x is None else x.reshape(draws, steps, *x.shape[1:]), rows)
    weights = weighed(None, last, paths.spoilt[:, None]).log_weights.to(particle.dtype)
    return particle.ended(paths.state, weights, outputs, rest, args).require_weights()
