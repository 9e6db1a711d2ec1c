"""The driver: an objective maximised by any optimiser of torch."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils._pytree import tree_leaves

from ...ppl.distributions.data import as_arguments
from ...ppl.errors import BranchError, DuplicateNameError, ObjectiveError, ProgramError, located
from ...ppl.interpretations.abstract_run import UNTYPED
from ...ppl.language.program import signature
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit
from ..runs.checkpoint import Checkpoint, Store, random_state, restore_random_state, stream
from ..runs.progress import Progress
from .captured import Captured, Gradient, Replayed
from .objective import Objective
from .posterior import posterior

Step = Callable[..., Gradient]


@dataclass(frozen=True)
class SVI:
    """Stochastic gradient ascent on an objective, over the parameters of an optimiser.

    In a process group of ``torch.distributed`` each process draws for itself, and gradients are
    averaged over the processes: give each its share of the data.

    Args:
        objective: what to maximise.
        optimizer: any ``torch.optim.Optimizer`` of the parameters.
        schedule: a scheduler of its learning rate, stepped after every step.
        samples: how many estimates are averaged in each gradient.
        patience: stop if the smoothed objective has not risen for so many steps.
        window: of the exponential means of the objective and of gradients, in steps.
        monitor: also follow the gradient by the parameters of the law of each choice.
        compiled: run the gradient as a compiled graph.  An objective that looks at random values in
            Python is run by replay, which is said.
        progress: show a progress bar.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    schedule: Any = None
    samples: int = 1
    patience: int | None = None
    window: int = 100
    monitor: bool = False
    compiled: bool = True
    progress: bool = True
    _known: dict[Hashable, Step] = field(default_factory=dict, init=False, repr=False)

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
        if self.samples < 1:
            raise ObjectiveError(located(f"SVI needs at least one sample, not {self.samples}"))
        run = _Run(self, steps, seed)
        store = Store(checkpoint, run.about(args))
        return run.through(_cycle(batches, args), store)


@dataclass
class Optimised:
    """An objective after an optimisation.

    ``history``: the estimates of the objective, by step.  ``noise``: of each parameter the norm of
    its gradient's standard deviation, and of its mean, over the last steps.  ``site_noise``: the
    same of each choice, by the parameters of its law, if the driver was to monitor it.
    """

    objective: Objective
    history: Tensor
    noise: dict[str, tuple[float, float]]
    site_noise: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: bool = False
    interrupted: bool = False
    args: tuple[Any, ...] = field(default=(), repr=False)

    @property
    def value(self) -> float:
        """The mean of the last tenth of the estimates."""
        last = max(1, len(self.history) // 10)
        return float(self.history[-last:].mean())

    def posterior(self, *args: Any, draws: int = 1000, seed: int = 0) -> Fit:
        """Draws of the guide with their importance weights: see ``vi.posterior``.

        The objective's first two arguments must be model and guide; ``args`` are those of the run
        unless others are given.
        """
        if len(self.objective.bound) < 2:
            what = f"{self.objective!r} does not begin with a model and a guide"
            raise ObjectiveError(located(what, hint="use posterior(model, guide, *args)"))
        model, guide = self.objective.bound[:2]
        return posterior(model, guide, *(args or self.args), draws=draws, seed=seed)

    def __repr__(self) -> str:
        end = " (interrupted)" if self.interrupted else " (stopped early)" if self.stopped else ""
        lines = [
            f"{self.objective!r} after {len(self.history)} steps: {self.value:.4f}{end}, "
            f"{self.seconds:.1f} s"
        ]
        for what, noise in (("gradient of", self.noise), ("at site", self.site_noise)):
            worst = sorted(noise.items(), key=lambda item: -item[1][0])[:5]
            lines += [f"  {what} {n}: {mean:.3g}, sd {sd:.3g}" for n, (sd, mean) in worst]
        return "\n".join(lines)


class _Run:
    """The state of one run of the driver."""

    def __init__(self, settings: SVI, steps: int, seed: int) -> None:
        self.settings, self.steps, self.seed = settings, steps, seed
        groups = settings.optimizer.param_groups
        self.parameters = [p for group in groups for p in group["params"]]
        self.known = settings._known  # by the shapes of arguments: later runs need not trace
        self.history: list[float] = []
        self.smooth, self.best, self.since = 0.0, -float("inf"), 0
        self.followed = Moments()
        self.sites = Moments()
        self.baselines: dict[str, Any] = {}
        self.stopped = False

    def about(self, args: tuple[Any, ...]) -> dict[str, Any]:
        """What a checkpoint of this run must agree with."""
        return {
            "objective": repr(self.settings.objective),
            "data": fingerprint(args),
            "seed": self.seed,
            "samples": self.settings.samples,
            "parameters": [list(p.shape) for p in self.parameters],
        }

    def through(self, batches: Iterator[tuple[Any, ...]], store: Store) -> Optimised:
        start, interrupted, settings = time.perf_counter(), False, self.settings
        args: tuple[Any, ...] = ()
        title = f"SVI of {settings.objective.name}"
        with (
            seeded(stream(self.seed, _rank()) if _rank() else self.seed),
            Progress(self.steps, title, settings.progress) as progress,
        ):
            if store.content is not None:
                for _ in store.content["history"]:
                    args = next(batches)
                self._restore(store.content, args)
                progress.advance(len(self.history))
            try:
                while len(self.history) < self.steps and not self.stopped:
                    args = next(batches)
                    self._step(args, progress)
                    store.offer(self._content)
            except KeyboardInterrupt:
                interrupted = True
            store.write(self._content())
        return Optimised(
            settings.objective,
            torch.tensor(self.history),
            self.followed.noise(),
            self.sites.noise(),
            time.perf_counter() - start,
            self.stopped,
            interrupted,
            args,
        )

    def _step(self, args: tuple[Any, ...], progress: Progress) -> None:
        settings, step = self.settings, len(self.history)
        estimate = self._gradient(args, progress)
        met: list[tuple[Gradient, list[Tensor]]] = []

        def loss() -> float:
            gradient = estimate(*args)
            found = averaged(gradient.by)
            value = float(gradient.values.mean())
            if not (torch.isfinite(gradient.values).all() and all(map(_finite, found))):
                what = f"the objective or its gradient is not finite at step {step}: it is {value}"
                hint = "lower the learning rate, or rescale the model"
                raise ProgramError(located(what, hint=hint))
            for parameter, by in zip(self.parameters, found, strict=True):
                parameter.grad = -by.to(parameter.dtype)
            met.append((gradient, found))
            return -value

        settings.optimizer.step(loss)
        if settings.schedule is not None:
            value = float(met[0][0].values.mean())
            plateau = isinstance(settings.schedule, ReduceLROnPlateau)
            settings.schedule.step(*([-value] if plateau else []))  # it waits for less of a loss
        gradient, found = met[0]
        for site, baseline, cost in gradient.costs:
            self.baselines[site] = baseline
            baseline.learn(cost.detach())
        self._watch(float(gradient.values.mean()), found, gradient.sites)
        progress.advance(1, **{settings.objective.name: self.smooth})

    def _watch(self, value: float, found: list[Tensor], sites: list[tuple[str, Tensor]]) -> None:
        """Follow the exponential means of the objective, and of the gradient and its square."""
        keep = 1 - 1 / min(len(self.history) + 1, self.settings.window)
        self.history.append(value)
        self.smooth = keep * self.smooth + (1 - keep) * value
        names = _names(self.settings.objective)
        for i, (parameter, by) in enumerate(zip(self.parameters, found, strict=True)):
            self.followed.add(names.get(id(parameter), f"parameter {i}"), by, keep)
        for i, (site, by) in enumerate(sites):
            self.sites.add(site, by, keep, i)
        if self.smooth > self.best or len(self.history) < self.settings.window:
            self.best, self.since = self.smooth, 0
        else:
            self.since += 1
        self.stopped = self.settings.patience is not None and self.since >= self.settings.patience

    def _gradient(self, args: tuple[Any, ...], progress: Progress) -> Step:
        """What computes the gradient for arguments of these shapes."""
        key = signature(args)
        if key not in self.known:
            with suppress(*UNTYPED):
                self.settings.objective.check(*args)
            self._tell_of_strangers(args)
            self.known[key] = self._made(args, progress)
        return self.known[key]

    def _tell_of_strangers(self, args: tuple[Any, ...]) -> None:
        """Warn of parameters that the objective moves with, and the optimiser does not hold."""
        held = {id(p) for p in self.parameters}
        with seeded(0), suppress(*UNTYPED):
            met = _leaves(self.settings.objective.surrogate(*args))
            strangers = [p for p in met if id(p) not in held]
            if not strangers:
                return
            names = _names(self.settings.objective)
            store = pyro.get_param_store()
            names |= {id(x): f"pyro.param {n!r}" for n, x in store._params.items()}
            shown = ", ".join(names.get(id(p), f"one of shape {list(p.shape)}") for p in strangers)
            what = f"the objective moves with parameters that the optimiser does not hold: {shown}"
            hint = "give it their module's parameters(), or requires_grad_(False)"
            warnings.warn(f"{what}; {hint}", RuntimeWarning, stacklevel=2)

    def _made(self, args: tuple[Any, ...], progress: Progress) -> Step:
        objective, n = self.settings.objective, self.settings.samples
        monitor = self.settings.monitor
        if not self.settings.compiled:
            return Replayed(objective, self.parameters, n, monitor)
        try:
            say = progress.say
            return Captured(objective, self.parameters, n, *args, notify=say, monitor=monitor)
        except (BranchError, DuplicateNameError) as error:
            warnings.warn(f"run by replay, not compiled: {error}", RuntimeWarning, stacklevel=2)
            return Replayed(objective, self.parameters, n, monitor)

    def _content(self) -> dict[str, Any]:
        schedule = self.settings.schedule
        return {
            "parameters": [p.detach().clone() for p in self.parameters],
            "optimizer": self.settings.optimizer.state_dict(),
            "schedule": None if schedule is None else _plain(schedule.state_dict()),
            "history": list(self.history),
            "watched": [self.smooth, self.best, self.since],
            "moments": [self.followed.known, self.sites.known],
            "baselines": {site: list(b.state) for site, b in self.baselines.items()},
            "random": random_state(),
        }

    def _restore(self, content: dict[str, Any], args: tuple[Any, ...]) -> None:
        for p, value in zip(self.parameters, content["parameters"], strict=True):
            p.data.copy_(value)
        self.settings.optimizer.load_state_dict(content["optimizer"])
        if self.settings.schedule is not None:
            self.settings.schedule.load_state_dict(content["schedule"])
        self.history = list(content["history"])
        self.smooth, self.best, self.since = content["watched"]
        self.followed.known, self.sites.known = content["moments"]
        if content["baselines"]:
            with seeded(0):
                met = self.settings.objective.surrogates(self.settings.samples, *args).costs
            self.baselines = {site: baseline for site, baseline, _ in met}
            for site, state in content["baselines"].items():
                for own, kept in zip(self.baselines[site].state, state, strict=True):
                    own.copy_(kept)
        restore_random_state(content["random"])


class Moments:
    """Exponential means of tensors and of their squares, by name and number."""

    def __init__(self) -> None:
        self.known: dict[str, dict[int, list[Tensor]]] = {}

    def add(self, name: str, x: Tensor, keep: float, number: int = 0) -> None:
        parts = self.known.setdefault(name, {})
        first, second = parts.setdefault(number, [torch.zeros_like(x), torch.zeros_like(x)])
        first.mul_(keep).add_(x, alpha=1 - keep)
        second.mul_(keep).addcmul_(x, x, value=1 - keep)

    def noise(self) -> dict[str, tuple[float, float]]:
        """Norms of the standard deviation and of the mean, by name."""
        found = {}
        for name, parts in self.known.items():
            pairs = list(parts.values())
            spread = sum(float((b - a**2).clamp(min=0).sum()) for a, b in pairs)
            size = sum(float((a**2).sum()) for a, _ in pairs)
            found[name] = spread**0.5, size**0.5
        return found


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


def _rank() -> int:
    grouped = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_rank() if grouped else 0


def averaged(gradients: list[Tensor]) -> list[Tensor]:
    """The gradients averaged over the processes of a group, if there is one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return gradients
    flat = torch.cat([g.reshape(-1) for g in gradients])
    torch.distributed.all_reduce(flat)
    flat /= torch.distributed.get_world_size()
    sizes = [g.numel() for g in gradients]
    pairs = zip(flat.split(sizes), gradients, strict=True)
    return [part.reshape(g.shape) for part, g in pairs]


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x).all())


def _names(objective: Objective) -> dict[int, str]:
    """The names of the parameters of the modules that an objective is about."""
    modules = [m for m in tree_leaves(objective.bound) if isinstance(m, torch.nn.Module)]
    return {
        id(p): f"{type(module).__name__}.{name}"
        for module in modules
        for name, p in module.named_parameters()
    }


def _leaves(surrogate: Tensor) -> list[Tensor]:
    """The parameters that a number was computed from, of each computation graph once."""
    found: dict[int, Tensor] = {}
    pending, seen = [surrogate.grad_fn], set[Any]()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if (leaf := getattr(node, "variable", None)) is not None:
            found[id(leaf)] = leaf
        pending += [before for before, _ in node.next_functions]
    return list(found.values())
