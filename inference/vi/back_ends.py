"""What computes a gradient at which step: replay at first, then a compiled graph.

Which of the two it is depends on the number of the step and on nothing else, so that a seed gives
the same numbers on a slow machine and a fast one, alone or resumed.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from ...ppl.compile.inductor import Notify
from ...ppl.errors import BranchError, DuplicateNameError
from ...ppl.interpretations.abstract_run import UNTYPED
from ...ppl.language.program import signature
from ...ppl.tensors.seeds import seeded
from .captured import Captured, Gradient, Replayed
from .objective import Objective
from .strangers import tell_of_strangers

Step = Callable[..., Gradient]

SEEDS = 4  # at which replay and code are compared
BEGIN = 10  # the step at which arguments of a kind are taken to come often


@dataclass
class Kind:
    """What is known for arguments of one kind.

    ``graph``: of the gradient; ``ready``: whether it is compiled; ``refused``: whether there is
    none, since Python looks at random values.
    """

    graph: Captured | None = None
    ready: bool = False
    refused: bool = False


class BackEnds:
    """The gradients of an objective, for one run of a driver.

    Args:
        replayed: so many steps with arguments of each kind are by replay; None: all.
        known: what earlier runs have found out, by the signature of arguments.
    """

    def __init__(
        self,
        objective: Objective,
        parameters: Sequence[Tensor],
        samples: int,
        monitor: bool,
        replayed: int | None,
        known: dict[Hashable, Kind],
        notify: Notify,
    ) -> None:
        self.objective, self.parameters = objective, list(parameters)
        self.samples, self.monitor, self.replayed = samples, monitor, replayed
        self.known, self.notify = known, notify
        self.replay = Replayed(objective, self.parameters, samples, monitor)
        self.met: dict[str, int] = {}  # how many steps there were with arguments of a kind
        self.begun: set[str] = set()
        self.now: dict[str, Step] = {}  # what runs from here on
        self.last: tuple[Any, str] = ((), "")

    def __enter__(self) -> BackEnds:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for each in self.known.values():
            if each.graph is not None and not each.ready:
                each.graph.stop()
                each.graph = None

    def at(self, args: tuple[Any, ...], left: int) -> Step:
        """What computes the gradient at the next step, of which ``left`` are to come, with it."""
        key = self._key(args)
        if key in self.now:
            return self.now[key]
        kind = self._known(key, args)
        n = self.met[key] = self.met.get(key, 0) + 1
        if self.replayed is None or kind.refused:
            self.now[key] = self.replay
            return self.replay
        often = n >= min(BEGIN, self.replayed) and n + left > self.replayed + 1
        if often and key not in self.begun:
            self.begun.add(key)
            self._begin(kind, args, beside=n <= self.replayed)
        if n <= self.replayed:
            return self.replay
        self.now[key] = self._after(kind, args)
        return self.now[key]

    def _key(self, args: tuple[Any, ...]) -> str:
        """What code is made for; that of the same arguments is not asked again."""
        if self.last[0] is not args:
            self.last = args, signature(args)
        return self.last[1]

    def _known(self, key: str, args: tuple[Any, ...]) -> Kind:
        """What is known for arguments, which are checked the first time."""
        if key not in self.known:
            with suppress(*UNTYPED):
                self.objective.check(*args)
            tell_of_strangers(self.objective, self.parameters, args)
            self.known[key] = Kind()
        return self.known[key]

    def _begin(self, kind: Kind, args: tuple[Any, ...], beside: bool) -> None:
        """Trace the gradient, and let another process compile it beside this one."""
        if kind.ready and kind.graph is not None and self._agree(kind.graph, args):
            return
        about = self.objective, self.parameters, self.samples
        try:
            graph = Captured(*about, *args, compiled=False, monitor=self.monitor)
        except (BranchError, DuplicateNameError) as error:
            warnings.warn(f"run by replay, not compiled: {error}", RuntimeWarning, stacklevel=2)
            kind.refused = True
            return
        kind.graph, kind.ready = graph, False
        if beside:
            graph.begin()

    def _after(self, kind: Kind, args: tuple[Any, ...]) -> Step:
        """What runs when no step is replayed any more."""
        if kind.graph is None:
            return self.replay
        if not kind.ready:
            kind.graph.finish(self.notify)
            kind.ready = True
        if self._agree(kind.graph, args):
            return kind.graph
        what = "the objective has changed since it was traced, by what it is closed over"
        hint = "pass to it as an argument what changes from step to step"
        warnings.warn(f"run by replay: {what}; {hint}", RuntimeWarning, stacklevel=2)
        kind.graph, kind.ready = None, False
        return self.replay

    def _agree(self, code: Captured, args: tuple[Any, ...]) -> bool:
        """Whether code gives the values that replay does, by the same random numbers.

        At all of several seeds but one: rounding sends a draw to its neighbour now and then.
        """
        found, wanted = (
            torch.stack([_values(step, args, seed) for seed in range(SEEDS)])
            for step in (code, self.replay)
        )
        scale = wanted[torch.isfinite(wanted)].abs().amax() if torch.isfinite(wanted).any() else 0.0
        near = (found - wanted).abs() <= 1e-3 * wanted.abs() + 1e-4 * scale
        alike = near | (found == wanted) | (found.isnan() & wanted.isnan())
        return int(alike.all(1).sum()) >= SEEDS - 1


def _values(step: Step, args: tuple[Any, ...], seed: int) -> Tensor:
    with seeded(seed):
        return step(*args).values.double()
