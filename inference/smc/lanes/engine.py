"""The engine of ``filter.cpp`` from Python: a particle filter's loop over time as one call."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ....ppl.compile.lanes.build import library
from ....ppl.compile.lanes.function import REALS
from ....ppl.compile.lanes.header import header
from ..resampling import Scheme, multinomial, stratified, systematic
from .code import Code
from .particle import Particle

FOLDER = Path(__file__).parent
SCHEMES: dict[Scheme, int] = {systematic: 0, stratified: 1, multinomial: 2}


class Filtered(NamedTuple):
    """Particles at the end: state [numbers, n], log_weights [n] as of ``Filtering.begin``.

    Where steps have outputs, history [steps, numbers, n], and ancestors [steps, n].
    """

    state: Tensor
    log_weights: Tensor
    history: Tensor | None
    ancestors: Tensor | None


class CodeOf(ctypes.Structure):
    """``Code`` of ``filter.cpp``."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("call", "tables", "work")),
        *(("noise", ctypes.c_long), ("normal", ctypes.c_void_p), ("points", ctypes.c_long)),
    ]


class Digits(ctypes.Structure):
    """``Digits`` of ``nets.h``."""

    _fields_ = [
        *((name, ctypes.c_long) for name in ("all", "columns", "numbers")),
        ("directions", ctypes.c_void_p),
    ]


class _Run(ctypes.Structure):
    _fields_ = [
        *((name, CodeOf) for name in ("start", "step", "ahead")),
        ("time", ctypes.c_void_p),
        *((name, ctypes.c_long) for name in ("particles", "steps", "before", "carried", "outputs")),
        *(("moved", ctypes.c_void_p), ("scheme", ctypes.c_long), ("ess", ctypes.c_double)),
        ("key", ctypes.c_uint64 * 2),
        *((name, ctypes.c_void_p) for name in ("given", "state", "log_weights", "history")),
        *((name, ctypes.c_void_p) for name in ("ancestors", "states", "weights")),
        ("digits", Digits),
    ]


def source() -> str:
    """The code of the engine."""
    parts = (FOLDER / name for name in ("noise.h", "nets.h", "filter.cpp", "backward.cpp"))
    return "\n".join((header(), *(part.read_text() for part in parts)))


@cache
def _built(text: str, dtype: torch.dtype) -> Any:
    options = "-O3", "-DREAL=double", "-DLANES=8", f"-DNUMBER={REALS[dtype]}"
    return library(text, *options)


class Engine:
    """Runs the filter of a particle, with this many of them."""

    def __init__(self, particle: Particle) -> None:
        self.particle, self._library = particle, _built(source(), particle.dtype)
        filtering = particle.filtering
        self.time = torch.zeros((), dtype=torch.int64)
        self._moved = torch.tensor(particle.moved, dtype=torch.int64)
        self._kept: list[Any] = []
        self.run = _Run(
            time=self.time.data_ptr(),
            particles=filtering.particles,
            steps=particle.steps,
            before=particle.fixed,
            carried=particle.size - particle.fixed,
            outputs=0 if particle.output is None else particle.output.size,
            moved=self._moved.data_ptr(),
            scheme=SCHEMES[filtering.scheme],
            ess=filtering.ess,
        )
        codes = (("start", particle.start, ()), ("step", particle.step, (self.time,)),
                 ("ahead", particle.ahead, (self.time,)))  # fmt: skip
        self._codes = [
            (name, code, own, self.prepared(code)) for name, code, own in codes if code is not None
        ]

    def prepared(self, code: Code) -> CodeOf:
        """The code, but for its tables."""
        normal, work = torch.tensor(code.normal, dtype=torch.int64), code.function.work()
        self._kept += [normal, work]
        return CodeOf(
            call=code.function.address,
            work=work.data_ptr(),
            noise=len(normal),
            normal=normal.data_ptr(),
            points=code.points,
        )

    def __call__(self, rest: list[Tensor], key: Tensor, given: Tensor | None = None) -> Filtered:
        """Run it.

        Args:
            rest: the arguments of the program, as of ``Particle.rest``.
            key: of the noise, two whole numbers.
            given: uniform and normal numbers in place of noise, in the order in which
                ``particle_filter`` draws: of each draw those of all particles.
        """
        kept, found = self.begun(rest, key, given)
        self._library.filtered(ctypes.byref(self.run))
        del kept
        return found

    def begun(self, rest: list[Tensor], key: Tensor, given: Tensor | None) -> tuple[Any, Filtered]:
        """All of ``run`` set for a call; what must stay alive, and where the results will be."""
        n, steps, run = self.run.particles, self.run.steps, self.run
        state = torch.empty(self.particle.size, n, dtype=self.particle.dtype)
        log_weights = torch.empty(n, dtype=torch.float64)
        history = ancestors = None
        if self.particle.output is not None:
            history = torch.empty(steps, run.outputs, n, dtype=self.particle.dtype)
            ancestors = torch.empty(steps, n, dtype=torch.int64)
        tables = [code.function.tables(*own, *rest) for _, code, own, _ in self._codes]
        for (name, _, _, prepared), table in zip(self._codes, tables, strict=True):
            prepared.tables = ctypes.addressof(table)
            setattr(run, name, prepared)
        run.key[:] = [x % 2**64 for x in key.tolist()]
        self.place(given=given, state=state, log_weights=log_weights, history=history,
                   ancestors=ancestors)  # fmt: skip
        return tables, Filtered(state, log_weights, history, ancestors)

    def place(self, **tensors: Tensor | None) -> None:
        """Let the fields of ``run`` with these names point to tensors."""
        for name, x in tensors.items():
            setattr(self.run, name, None if x is None else x.data_ptr())
