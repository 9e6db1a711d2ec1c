"""Chains of a kernel on traces: one run of the program after another, for any program."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import InitializationError, checked, located
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.handlers import Untracing
from ...ppl.language.program import Callback, program_name
from ...ppl.tasks.checkpoint import (
    Checkpoint,
    Content,
    Store,
    random_state,
    restore_random_state,
    stream,
)
from ...ppl.tasks.workers import Client, Workers
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..results.fit import POINTWISE_LIMIT, TOO_LARGE, Fit, plates_of
from ..runs.progress import Progress
from .kernel import TraceKernel
from .traces import Scores, Traced, traced

REDUCIBLE = "the chain may be reducible, so move sites together, by block(...) or gibbs([...])"
TRIES = 1000  # runs from the prior, until one has positive density
LONG = 5.0  # seconds of the processor


def start(p: Callback, *args: Any) -> Traced:
    """A run from the prior whose density is positive; the search warns after ``LONG`` seconds.

    Errors:
        InitializationError: a thousand runs had density zero, or one is NaN or infinite.
    """
    hint, warned = "soften the observations, or use smc or annealed", False
    began = time.process_time()
    for tried in range(1, TRIES + 1):
        run = traced(p, {}, {}, *args, draws=None)
        assert run is not None  # nothing was given that could be impossible
        log_density = float(run.log_density)
        if math.isnan(log_density) or log_density == math.inf:
            what = f"the log density of {program_name(p)} is {log_density} at a run from the prior"
            raise InitializationError(located(what, hint="check the scores and scales"))
        if log_density > -math.inf:
            return run._replace(drawn=frozenset())
        if not warned and time.process_time() - began > LONG:
            what = f"none of {tried} runs of {program_name(p)} from the prior has positive density"
            what += f" until now, of {TRIES} that may be tried"
            warnings.warn(located(what, hint=hint), RuntimeWarning, stacklevel=2)
            warned = True
    what = f"none of {TRIES} runs of {program_name(p)} from the prior has positive density"
    raise InitializationError(located(what, hint=hint))


@dataclass
class Chain:
    """A chain so far.

    ``draws``: of each step after warm-up, the choices and deterministic sites by name, the log
    density, the share of proposals that were accepted, and what single sites scored, if no more
    than ``most`` numbers; ``tried``: by site, whether each proposal was accepted, warm-up included.
    """

    run: Traced
    steps: int = 0
    draws: list[tuple[dict[str, Tensor], Tensor, float, dict[str, Tensor]]] = field(
        default_factory=list
    )
    tried: dict[str, list[bool]] = field(default_factory=dict)

    def advance(self, kernel: TraceKernel, warmup: int, most: int, p: Callback, *args: Any) -> None:
        """Make one step; an interruption within leaves the chain as it was."""
        run, accepted = kernel.step(self.run, p, *args)
        moves = [yes for each in accepted.values() for yes in each]
        for name, each in accepted.items():
            self.tried.setdefault(name, []).extend(each)
        self.run, self.steps = run, self.steps + 1
        if self.steps > warmup:
            rate = sum(moves) / len(moves) if moves else 1.0
            entries = sum(x.numel() for x in run.scores.values())
            scores = dict(run.scores) if entries <= most else {}
            self.draws.append(({**run.choices, **run.derived}, run.log_density, rate, scores))

    def content(self) -> Content:
        """All of it as plain values, with the state of the generator."""
        run = {name: getattr(self.run, name) for name in _OF_RUN}
        run["scores"] = dict(self.run.scores)
        kept = {name: getattr(self, name) for name in _KEPT}
        return {"run": run, "random": random_state(), **kept}

    @staticmethod
    def restored(content: Content, p: Callback, *args: Any) -> Chain:
        """The chain that a content was taken of; the generator goes on from where it was.

        The program is run again for the laws of its choices; all numbers are those of then.
        """
        run = traced(p, content["run"]["choices"], {}, *args, draws=None)
        assert run is not None  # it was possible when it was kept
        restore_random_state(content["random"])
        kept = {name: content[name] for name in _KEPT}
        then = {**content["run"], "scores": Scores(content["run"]["scores"])}
        return Chain(run._replace(**then, drawn=frozenset()), **kept)


_KEPT = ("steps", "draws", "tried")
_OF_RUN = ("choices", "log_probs", "log_score", "derived")


@dataclass(frozen=True)
class Whole:
    """What brings chains of a kernel on a program to their end, after so many steps."""

    kernel: TraceKernel
    p: Callback
    args: tuple[Any, ...]
    warmup: int
    length: int
    most: int

    def __call__(
        self, seed: int, content: Content | None, watch: Callable[[Chain, int], None]
    ) -> Chain:
        """The chain of a seed, from its content on; ``watch`` is told of it and its new steps."""
        with checked(), torch.no_grad(), seeded(seed):
            if content is None:
                chain = Chain(start(self.p, *self.args))
            else:
                chain = Chain.restored(content, self.p, *self.args)
            watch(chain, chain.steps)
            while chain.steps < self.length:
                chain.advance(self.kernel, self.warmup, self.most, self.p, *self.args)
                watch(chain, 1)
        return chain

    def content(self, seed: int, content: Content | None) -> Content:
        """That of the chain at its end, which travels."""
        return self(seed, content, lambda chain, steps: None).content()

    def elsewhere(
        self, executor: Executor | Client, each: list[tuple[int, int, Content | None]]
    ) -> Iterator[tuple[int, int, Content]]:
        """By number and seed, chains that are at their end, and the others as they get there."""
        seeds = {i: seed for i, seed, _ in each}
        left = {}
        for i, seed, content in each:
            if content is not None and content["steps"] == self.length:
                yield i, seed, content
            else:
                left[i] = (seed, content)
        for i, content in Workers(executor, self.content).results(left):
            yield i, seeds[i], content


def run_chains(
    kernel: TraceKernel,
    p: Callback,
    args: tuple[Any, ...],
    *,
    chains: int,
    draws: int,
    warmup: int,
    seed: int,
    progress: bool,
    checkpoint: Checkpoint | str | Path | None = None,
    executor: Executor | Client | None = None,
) -> Fit:
    """Draws of the sites that every run has; of the others the notes tell.

    The kernel is not adapted: the first ``warmup`` steps are only left out.  Each chain draws from
    a stream of its own: here, or as a task for a worker of the executor.
    """
    begun = time.perf_counter()
    check_program(p, *args)
    title, length = f"MCMC ({kernel.name})", warmup + draws
    about = {"method": title, "draws": draws, "warmup": warmup, "seed": seed}
    store = Store(checkpoint, {**about, "program, data or kernel": fingerprint((p, args, kernel))})
    contents: dict[int, Content] = (store.content or {"chains": {}})["chains"]
    most = POINTWISE_LIMIT // (chains * draws)
    whole, made = Whole(kernel, p, args, warmup, length, most), dict[int, Chain]()
    interrupted = False
    with Progress(chains * length, title, progress) as bar:

        def watch(i: int, chain: Chain, steps: int) -> None:
            made[i] = chain
            bar.advance(steps, chain=str(i + 1), lp=float(chain.run.log_density))
            store.offer(lambda: {"chains": {**contents, i: chain.content()}})

        known = [(i, stream(seed, i), contents.get(i)) for i in range(chains)]
        try:
            left: Iterable[tuple[int, int, Content | None]] = known
            if executor is not None:
                left = whole.elsewhere(executor, known)
            for i, own, content in left:
                contents[i] = whole(own, content, partial(watch, i)).content()
                store.write({"chains": contents})
        except KeyboardInterrupt:
            interrupted = True
    done = [made[i] for i in sorted(made)]
    if interrupted and not (done := _kept(done, draws)):
        raise KeyboardInterrupt
    outcomes: dict[str, list[bool]] = {}
    for chain in done:
        for name, each in chain.tried.items():
            outcomes[name] = outcomes.get(name, []) + each
    values = [[draw[0] for draw in chain.draws] for chain in done]
    log_densities = [torch.stack([draw[1] for draw in chain.draws]) for chain in done]
    rates = [[draw[2] for draw in chain.draws] for chain in done]
    found, notes = _stacked(values, "draws")
    scores, partial_scores = _stacked(
        [[draw[3] for draw in chain.draws] for chain in done], "scores"
    )
    record = _record(done[0].run, p, args, seed)
    if record.pointwise and not scores and not partial_scores:
        notes.append(TOO_LARGE)
    notes += partial_scores
    notes += [
        f"no proposal for '{name}' was accepted in {len(tried)} steps: {REDUCIBLE}"
        for name, tried in outcomes.items()
        if len(tried) >= 20 and not any(tried)
    ]
    notes += [f"no run has '{name}', which {kernel.name} is to move" for name in missed(outcomes)]
    notes += [
        f"'{name}' never changed{_where(x)}: {REDUCIBLE}"
        for name, x in found.items()
        if draws >= 20 and bool((x == x[:, :1]).all())
    ]
    return Fit(
        method=title,
        draws=found,
        stats={
            "lp": torch.stack(log_densities),
            "acceptance_rate": torch.tensor(rates, dtype=torch.float64),
        },
        log_likelihood={name: x for name, x in scores.items() if name in record.pointwise},
        observed=record.of("observed"),
        dims=plates_of(record),
        latents=tuple(name for name in found if name in done[0].run.choices),
        factors=record.factors,
        seed=seed,
        seconds=time.perf_counter() - begun,
        interrupted=interrupted,
        notes=tuple(notes),
    )


def _record(run: Traced, p: Callback, args: tuple[Any, ...], seed: int) -> Recorder:
    """The run once more, with the kinds of its sites, their dimensions and the data."""
    again = Recorder(run.choices, density=False, validate=False)
    with torch.no_grad(), seeded(seed), Untracing(), again as recorder:
        p(*args)
    return recorder


def _kept(chains: list[Chain], draws: int) -> list[Chain]:
    """What to keep of chains that were interrupted: those that are whole, else the first draws."""
    whole = [chain for chain in chains if len(chain.draws) == draws]
    return whole or [chain for chain in chains if chain.draws]


def missed(outcomes: dict[str, list[bool]]) -> list[str]:
    """The sites that were to be moved and never were there."""
    return [name for name, tried in outcomes.items() if not tried]


def _where(x: Tensor) -> str:
    """Words for draws that are constant in each chain: whether also between chains."""
    return ", though it differs between chains" if bool((x != x[:1]).any()) else ""


def _stacked(rows: list[list[dict[str, Tensor]]], what: str) -> tuple[dict[str, Tensor], list[str]]:
    """The values [chains, draws, *shape] of the sites that all runs have, in one shape."""
    runs = [values for each in rows for values in each]
    names = dict.fromkeys(name for values in runs for name in values)
    shapes = {n: {v[n].shape if n in v else None for v in runs} for n in names}
    common = [name for name in names if len(shapes[name]) == 1]
    draws = {
        name: torch.stack([torch.stack([v[name] for v in each]) for each in rows])
        for name in common
    }
    missing = [name for name in names if name not in common]
    notes = (
        [f"not every run has {', '.join(missing)}: their {what} are left out"] if missing else []
    )
    return draws, notes
