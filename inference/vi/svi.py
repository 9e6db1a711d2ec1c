"""The driver: an objective maximised by any optimiser of torch."""

from __future__ import annotations

import math
import time
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ...ppl.distributions.data import as_arguments
from ...ppl.errors import ObjectiveError, ProgramError, located
from ...ppl.tasks.checkpoint import (
    Checkpoint,
    Store,
    random_state,
    restore_random_state,
    stream,
)
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..runs.progress import Progress
from .back_ends import BackEnds, Kind
from .captured import Gradient
from .noise import Moments, norms
from .objective import Objective
from .optimised import Optimised
from .processes import (
    averaged,
    gathered,
    grouped,
    made_equal,
    rank,
    size_of_group,
    state_of,
    told,
)
from .strangers import names_of
from .validation import Validating, Validation

Met = tuple[tuple[str, tuple[int, ...]], ...]  # names and shapes of what was followed together


@dataclass(frozen=True)
class SVI:
    """Stochastic gradient ascent on an objective, over the parameters of an optimiser.

    In a process group of ``torch.distributed`` each process draws for itself, and gradients are
    averaged over the processes: give each its share of the data, as ``Batches`` does.  They start
    from the parameters of process 0, which alone shows progress and writes checkpoints, with the
    random states of all.  Ctrl-C is an error there.

    Args:
        objective: what to maximise.
        optimizer: any ``torch.optim.Optimizer`` of the parameters.
        schedule: a scheduler of its learning rate, stepped after every step.
        samples: how many estimates are averaged in each gradient.
        accumulate: over how many batches, one after the other, a gradient is averaged.
        clip: the greatest norm of the gradient; a longer one is shortened to it.
        patience: stop if the smoothed objective has not risen for so many steps.
        validation: an objective on other data, by which to stop, and to choose the parameters.
        window: of the exponential means of the objective and of gradients, in steps.
        monitor: also follow the gradient by the parameters of the law of each choice.
        compiled: run the gradient as a compiled graph after the first ``replayed`` steps.  An
            objective that looks at random values in Python is run by replay, which is said.
        replayed: how many steps, with arguments of each kind, are by replay, while a compiler is at
            work beside them.  Then the run waits for it: which step is by what does not depend on
            the machine's speed.  A run of no more steps is not compiled.
        progress: show a progress bar.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Any = None
    samples: int = 1
    accumulate: int = 1
    clip: float | None = None
    patience: int | None = None
    validation: Validation | None = None
    window: int = 100
    monitor: bool = False
    compiled: bool = True
    replayed: int = 200
    progress: bool = True
    _known: dict[Hashable, Kind] = field(default_factory=dict, init=False, repr=False)

    def run(
        self,
        *args: Any,
        steps: int = 1000,
        batches: Iterable[Any] | None = None,
        seed: int = 0,
        checkpoint: Checkpoint | str | Path | None = None,
    ) -> Optimised:
        """Take steps; the parameters are changed in place.

        Args:
            args: the last arguments of the objective.
            batches: in place of ``args``: what gives them for each step in turn, again and again,
                such as a ``DataLoader``.
            checkpoint: where the run is kept, and gone on from if it was broken off.

        Errors:
            ProgramError: the objective or a gradient is not finite.
            StrategyError, SupportError, DataError: see ``Objective.surrogate``.
        """
        for what, number in (("sample", self.samples), ("batch to accumulate", self.accumulate)):
            if number < 1:
                raise ObjectiveError(located(f"SVI needs at least one {what}, not {number}"))
        if self.clip is not None and not self.clip > 0:
            what = f"gradients are clipped to a norm above zero, not {self.clip}"
            raise ObjectiveError(located(what, hint="clip=None leaves them as they are"))
        run = _Run(self, steps, seed)
        store = Store(None if rank() else checkpoint, run.about(args))
        return run.through(_cycle(batches, args), store, keeps=checkpoint is not None)


class _Run:
    """The state of one run of the driver."""

    def __init__(self, settings: SVI, steps: int, seed: int) -> None:
        self.settings, self.steps, self.seed = settings, steps, seed
        groups = settings.optimizer.param_groups
        self.parameters = [p for group in groups for p in group["params"]]
        self.names = names_of(settings.objective, self.parameters)
        self.history: list[float] = []
        self.smooth, self.best, self.since = 0.0, -float("inf"), 0
        self.followed = Moments(settings.window)
        self.sites: dict[Met, Moments] = {}
        self.baselines: dict[str, Any] = {}
        self.validating = Validating(settings.validation, settings.objective, self.parameters, seed)
        self.stopped = False

    def about(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """What a checkpoint of this run must agree with."""
        settings = self.settings
        return {
            "objective": repr(settings.objective),
            "data": fingerprint(args),
            "seed": self.seed,
            "samples": settings.samples,
            "accumulate": settings.accumulate,
            "replayed": settings.replayed if settings.compiled else None,
            "parameters": [list(p.shape) for p in self.parameters],
            "processes": size_of_group(),
        }

    def through(
        self, batches: Iterator[tuple[Any, ...]], store: Store, *, keeps: bool
    ) -> Optimised:
        """All steps; a store ``keeps`` them, which is that of process 0."""
        start, interrupted, settings = time.perf_counter(), False, self.settings
        args: tuple[Any, ...] = ()
        title = f"SVI of {settings.objective.name}"
        with (
            seeded(stream(self.seed, rank()) if rank() else self.seed),
            Progress(self.steps, title, settings.progress and not rank()) as progress,
            BackEnds(
                settings.objective,
                self.parameters,
                settings.samples,
                settings.monitor,
                settings.replayed if settings.compiled else None,
                settings._known,
                progress.say,
            ) as self.back_ends,
        ):
            made_equal(self.parameters)
            if keeps and (content := told(store.content)) is not None:
                for _ in range(len(content["history"]) * settings.accumulate):
                    args = next(batches)
                self._restore(content, args)
                progress.advance(len(self.history))
            try:
                while len(self.history) < self.steps and not self.stopped:
                    given = [next(batches) for _ in range(settings.accumulate)]
                    args = given[-1]
                    self._step(given)
                    progress.advance(1, **{settings.objective.name: self.smooth})
                    if keeps and told(store.due):
                        store.write(self._content())
            except KeyboardInterrupt:
                if grouped():  # others may be waiting for this process
                    raise
                interrupted = True
            if keeps:
                store.write(self._content())
            self.validating.finish()
        return Optimised(
            settings.objective,
            torch.tensor(self.history),
            self.followed.noise(self.names),
            self._site_noise(),
            self.validating.history,
            time.perf_counter() - start,
            self.stopped,
            interrupted,
            args,
        )

    def _step(self, given: list[tuple[Any, ...]]) -> None:
        """A step of the optimiser, by the gradient averaged over batches."""
        settings = self.settings
        left = (self.steps - len(self.history)) * len(given)
        estimates = [(self.back_ends.at(args, left - i), args) for i, args in enumerate(given)]
        met: list[tuple[float, list[Gradient]]] = []

        def loss() -> float:
            gradients = [estimate(*args) for estimate, args in estimates]
            value, found = self._averaged(gradients)
            sizes = norms(found)
            self._require_finite(value, sizes)
            if not met:
                self.followed.add(found, sizes)
                met.append((value, gradients))
            if settings.clip is not None and (size := math.hypot(*sizes)) > settings.clip:
                torch._foreach_mul_(found, settings.clip / size)
            for parameter, by in zip(self.parameters, found, strict=True):
                parameter.grad = by
            return -value

        settings.optimizer.step(loss)
        value, gradients = met[0]
        if settings.schedule is not None:
            plateau = isinstance(settings.schedule, ReduceLROnPlateau)
            settings.schedule.step(*([-value] if plateau else []))  # it waits for less of a loss
        for gradient in gradients:
            for site, baseline, cost in gradient.costs:
                self.baselines[site] = baseline
                baseline.learn(cost.detach())
            self._follow_sites(gradient.sites)
        self._watch(value)

    def _averaged(self, gradients: list[Gradient]) -> tuple[float, list[Tensor]]:
        """The estimate and the derivative of its negative, over all batches and processes."""
        first, *others = gradients
        found, value = first.down, first.values.mean()
        for other in others:
            torch._foreach_add_(found, other.down)
            value = value + other.values.mean()
        if others:
            torch._foreach_div_(found, len(gradients))
            value = value / len(gradients)
        *found, value = averaged([*found, value])
        pairs = zip(found, self.parameters, strict=True)
        return float(value), [by if by.dtype == p.dtype else by.to(p.dtype) for by, p in pairs]

    def _require_finite(self, value: float, sizes: list[float]) -> None:
        if math.isfinite(value) and all(map(math.isfinite, sizes)):
            return
        step = len(self.history)
        what = f"the objective or its gradient is not finite at step {step}: it is {value}"
        hint = "lower the learning rate, or rescale the model"
        raise ProgramError(located(what, hint=hint))

    def _watch(self, value: float) -> None:
        """Follow the exponential mean of the objective, and stop where it rises no more."""
        keep = 1 - 1 / min(len(self.history) + 1, self.settings.window)
        self.history.append(value)
        self.smooth = keep * self.smooth + (1 - keep) * value
        if self.smooth > self.best or len(self.history) < self.settings.window:
            self.best, self.since = self.smooth, 0
        else:
            self.since += 1
        patience = self.settings.patience
        self.stopped = patience is not None and self.since >= patience
        self.stopped |= self.validating.after(len(self.history))

    def _follow_sites(self, sites: list[tuple[str, Tensor]]) -> None:
        if not sites:
            return
        met = tuple((name, tuple(x.shape)) for name, x in sites)
        found = [x for _, x in sites]
        self.sites.setdefault(met, Moments(self.settings.window)).add(found, norms(found))

    def _site_noise(self) -> dict[str, tuple[float, float]]:
        """That of the sites that were met together most often."""
        if not self.sites:
            return {}
        met, moments = max(self.sites.items(), key=lambda item: item[1].count)
        return moments.noise([name for name, _ in met])

    def _content(self) -> dict[str, Any]:
        """The run, in process 0; ``own``: by process, what differs between them."""
        schedule = self.settings.schedule
        own = {
            "sites": [[met, moments.state] for met, moments in self.sites.items()],
            "kinds": dict(self.back_ends.met),
            "baselines": {site: list(b.state) for site, b in self.baselines.items()},
            "random": random_state(),
        }
        return {
            "own": gathered(own),
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimizer": state_of(self.settings.optimizer),
            "schedule": None if schedule is None else _plain(schedule.state_dict()),
            "history": list(self.history),
            "watched": [self.smooth, self.best, self.since],
            "moments": self.followed.state,
            "validation": self.validating.state,
        }

    def _restore(self, content: dict[str, Any], args: tuple[Any, ...]) -> None:
        for p, value in zip(self.parameters, content["parameters"], strict=True):
            p.data.copy_(value)
        self.settings.optimizer.load_state_dict(content["optimizer"])
        if self.settings.schedule is not None:
            self.settings.schedule.load_state_dict(content["schedule"])
        self.history = list(content["history"])
        self.smooth, self.best, self.since = content["watched"]
        self.followed.state = content["moments"]
        own = content["own"][rank()]
        for sites, state in own["sites"]:
            self.sites[sites] = Moments(self.settings.window)
            self.sites[sites].state = state
        self.validating.state = content["validation"]
        self.back_ends.met = dict(own["kinds"])
        if own["baselines"]:
            with seeded(0):
                met = self.settings.objective.surrogates(self.settings.samples, *args).costs
            self.baselines = {site: baseline for site, baseline, _ in met}
            for site, state in own["baselines"].items():
                for x, kept in zip(self.baselines[site].state, state, strict=True):
                    x.copy_(kept)
        restore_random_state(own["random"])


def _plain(state: dict[str, Any]) -> dict[str, Any]:
    kept = (int, float, str, bool, list, dict, tuple, type(None))
    return {k: v for k, v in state.items() if isinstance(v, kept)}


def _cycle(batches: Iterable[Any] | None, args: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """The arguments of each step."""
    if batches is None:
        args = as_arguments(args)
        while True:
            yield args
    while True:
        empty = True
        for batch in batches:
            empty = False
            given = tuple(batch) if isinstance(batch, tuple | list) else (batch,)
            yield as_arguments((*args, *given))
        if empty:
            raise ObjectiveError(located("there are no batches", hint="give some, or args"))
