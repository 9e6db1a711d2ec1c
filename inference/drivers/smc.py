"""The driver of sequential Monte Carlo: independent populations, the posterior and its evidence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...ppl.errors import ZeroMassError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, program_name
from ...ppl.tasks.checkpoint import Checkpoint, Content, Store, stream
from ...ppl.tasks.workers import Client, Workers
from ...ppl.tensors.decompositions import NO_DECOMPOSITION, OF_BATCHES
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.placing import Device, Place, placed, settled
from ..runs.progress import Progress
from ..smc import doubts
from ..smc.archipelago import by_evidence, pooled
from ..smc.powers import increases_to_one, ladder
from ..smc.tempered_islands import TemperedIslands
from .islands import Algorithm, ByAlgorithm, ByTempering, Island, Plan

OF_THE_PILOT, OF_THE_WHOLE = -1, -2  # the numbers of streams of randomness beside the islands'
LONGEST = 20  # states of a waste-free chain, unless moves are given
GUESS = 40  # powers, before a pilot run has found them


@dataclass(frozen=True, repr=False)
class SMC:
    """Sequential Monte Carlo: weighted particles become draws, and their weight the evidence.

    ``SMC`` is a driver, which runs a method on real work; ``smc`` is a program, one of the methods.

    Without an ``algorithm`` it is tempered SMC, for programs whose latents are continuous:
    particles from the prior are weighted by powers of the likelihood, and moved by HMC.  A pilot
    run finds the powers, such that each step leaves nine tenths of the effective sample size, and
    at each of them the metric, the step size, and how many moves particles need to forget where
    they were.  The islands then run with all of these fixed, which makes their estimates of the
    evidence unbiased; ``Fit.report`` says what was found.

    Islands are independent runs, each of a stream of its own: their spread gives the standard
    error, by Student's law of ``islands - 1`` degrees of freedom (see ``pooled``).

    The draws of the result are those of the islands in proportion to their evidences, which
    ``Fit.history`` keeps.  Chain i holds the draws of island i, of which some are left out where
    its evidence is below the mean, and draws of islands above the mean, again, in their place.
    Where evidences agree, chains are independent up to few draws, and R-hat and effective sizes
    mean what they do for Markov chains; where they do not, ``Fit.warnings()`` says so.

    Args:
        particles: on each island.
        islands: independent populations.
        algorithm: from a program and a number of particles to a program that returns a population,
            such as ``particle_filter``, ``smc``, ``importance``, or
            ``lambda p, n: particle_filter(p, n, ess=0.5)``.  Its latents may be discrete.
        stages: of tempering: the powers, increasing to 1; or how many, spaced as (k / stages)^3.
        moves: of tempering: HMC transitions of each particle at each power.
        adaptive: let each island find its own powers and moves, without a pilot run.  The evidence
            is then consistent, but biased.
        waste_free: keep the particles of all moves (Dau and Chopin, arXiv 2011.02328): at each
            power few are resampled, and each begins a chain of ``moves + 1`` states, all of which
            are particles; of the largest divisor of ``particles`` up to 20 unless moves are given.
        compiled: compile the log density, or the loops and lanes of the algorithm, with Inductor.
        device: where to compute, and where the data are moved; torch's default unless given.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.
        progress: show a progress bar.

    Errors:
        ValueError: sizes are not positive, powers do not increase to 1, waste-free chains do not
            divide the particles, or are to be adaptive.
    """

    particles: int = 1000
    islands: int = 4
    algorithm: Algorithm | None = None
    stages: int | Sequence[float] | None = None
    moves: int | None = None
    adaptive: bool = False
    waste_free: bool = False
    compiled: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        sizes = [self.particles, self.islands, 1 if self.moves is None else self.moves]
        if min([*sizes, self.stages if isinstance(self.stages, int) else 1]) < 1:
            raise ValueError("SMC needs at least one particle, island, stage and move")
        if (powers := self._powers) is not None and not increases_to_one(powers):
            raise ValueError(
                f"SMC: stages must increase from above 0 to exactly 1, unlike {powers}"
            )
        if self.waste_free and self.adaptive:
            raise ValueError(
                "SMC: waste-free chains take their moves from a pilot run, so adaptive=False"
            )
        if self.waste_free and (self.length < 2 or self.particles % self.length):
            what = f"SMC: waste-free chains of {self.length} states do not divide {self.particles}"
            raise ValueError(f"{what} particles; choose a multiple of moves + 1")

    @property
    def _powers(self) -> list[float] | None:
        if self.stages is None:
            return None
        return ladder(self.stages) if isinstance(self.stages, int) else list(self.stages)

    @property
    def length(self) -> int:
        """Of waste-free chains, in states; 1 where there are none."""
        if not self.waste_free:
            return 1
        if self.moves is not None:
            return self.moves + 1
        return max(k for k in range(1, LONGEST + 1) if self.particles % k == 0)

    def run(
        self,
        p: Callback,
        *args: Any,
        seed: int = 0,
        checkpoint: Checkpoint | str | Path | None = None,
        executor: Executor | Client | None = None,
    ) -> Fit:
        """Draw from the posterior of ``p(*args)`` and estimate its evidence.

        Args:
            seed: of all randomness; equal seeds give equal fits on one machine.
            checkpoint: a file where finished islands are kept, and from which a run that was killed
                goes on.
            executor: whose workers run the islands: a ``ProcessPoolExecutor``, a client of Dask, or
                any other whose workers are processes.  The program and its arguments are sent
                there.  The result is the same.

        Errors:
            ProgramError: the executor has lost too many workers, or its workers are threads.
            ZeroMassError: no particle of an island has positive weight.
            UnsupportedDistributionError: tempering meets a discrete latent, or a prior that cannot
                be sampled.
        """
        start = time.perf_counter()
        place = settled(p, args, self.device, self.dtype, self.algorithm)
        fit = replace(self, dtype=place.dtype)._run(place, seed, checkpoint, executor)
        seconds = time.perf_counter() - start
        return replace(fit, notes=(*place.notes, *fit.notes), seed=seed, seconds=seconds)

    def _run(
        self,
        place: Place,
        seed: int,
        checkpoint: Checkpoint | str | Path | None,
        executor: Executor | Client | None,
    ) -> Fit:
        p, args = place.program, place.args
        store = Store(checkpoint, self._about(p, args, seed))
        kept = store.content or {"plan": None, "islands": {}}
        plan = None if kept["plan"] is None else Plan.of(kept["plan"])
        seeds = {i: stream(seed, i) for i in range(self.islands)}
        islands = {i: Island(*kept["islands"][i]) for i in seeds if i in kept["islands"]}
        interrupted = False
        title = f"{self.method}, {self.islands} islands"
        with torch.no_grad(), Progress(self._steps(plan), title, self.progress) as progress:
            work = cache(partial(self._work, p, args, progress))
            if plan is not None or islands:
                progress.advance(self._steps(plan, len(islands)))
            try:
                if self._by_plan and plan is None:
                    with placed(self.device, self.dtype), seeded(stream(seed, OF_THE_PILOT)):
                        plan = work().plan()
                    progress.lengthen(self._steps(plan))
                    store.write(_content(plan, islands))
                left = {i: own for i, own in seeds.items() if i not in islands}
                for i, island in self._islands(p, args, plan, left, work, executor):
                    islands[i] = island
                    store.write(_content(plan, islands))
                    figures = {"log_evidence": float(island.log_evidence)}
                    whole = self.algorithm is not None or executor is not None
                    progress.advance(self._steps_each(plan) if whole else 0, **figures)
            except KeyboardInterrupt:
                if not islands:
                    raise
                interrupted = True
            with placed(self.device, self.dtype), seeded(stream(seed, OF_THE_WHOLE)):
                fit = self._fit(p, args, plan, [islands[i] for i in sorted(islands)])
        return replace(fit, interrupted=interrupted)

    def __repr__(self) -> str:
        what = "" if self.algorithm else f": {self._what}"
        return f"<{self.method}{what}; {self.islands} islands of {self.particles} particles>"

    @property
    def method(self) -> str:
        """A name for the result."""
        return f"SMC ({'tempered' if self.algorithm is None else program_name(self.algorithm)})"

    @property
    def _what(self) -> str:
        n = None if self._powers is None else len(self._powers)
        powers = "powers" if n is None else f"{n} power{'s' * (n > 1)}"
        moves = "HMC moves" if self.moves is None else f"{self.moves} HMC moves at each"
        chains = f"waste-free chains of {self.length}" if self.waste_free else moves
        return f"{powers} and {chains}, set by {'each island' if self.adaptive else 'a pilot run'}"

    @property
    def _by_plan(self) -> bool:
        return self.algorithm is None and not self.adaptive

    def _about(self, p: Callback, args: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        settings = {name: getattr(self, name) for name in ("particles", "moves", "adaptive")}
        place = {"device": str(self.device), "dtype": str(self.dtype), "compiled": self.compiled}
        return {
            "method": self.method,
            "seed": seed,
            **place,
            **settings,
            "stages": self._powers,
            "waste-free": self.length,
            "program, data or algorithm": fingerprint((p, args, self.algorithm)),
        }

    def _steps_each(self, plan: Plan | None) -> int:
        """How many steps of progress an island is, as far as is known."""
        if self.algorithm is not None:
            return 1
        return len(plan.stages if plan else self._powers or ladder(GUESS))

    def _steps(self, plan: Plan | None, islands: int | None = None) -> int:
        """How many steps of progress so many islands are, with the pilot run before them."""
        count = self.islands if islands is None else islands
        return self._steps_each(plan) * (count + self._by_plan)

    def _work(self, p: Callback, args: tuple[Any, ...], progress: Progress) -> Any:
        """What makes plan and islands."""
        with placed(self.device, self.dtype):
            if self.algorithm is not None:
                say = progress.say if self.compiled else None
                return ByAlgorithm.made(p, args, self.algorithm, self.particles, say)
            islands = TemperedIslands(
                LogDensity(p, *args),
                self.particles,
                self.length,
                compiled=self.compiled,
                notify=progress.say,
                watch=progress.advance,
            )
        moves = None if self.waste_free else self.moves
        return ByTempering(islands, self._powers, moves, self.length)

    def _islands(
        self,
        p: Callback,
        args: tuple[Any, ...],
        plan: Plan | None,
        seeds: dict[int, int],
        work: Callable[[], Any],
        executor: Executor | Client | None,
    ) -> Iterator[tuple[int, Island]]:
        """By number, the islands of these seeds, as they get done."""
        if executor is not None:
            there = _Islands(replace(self, progress=False), p, args)
            yield from Workers(executor, there).results({i: (plan, s) for i, s in seeds.items()})
            return
        for i, seed in seeds.items():
            yield i, self._island(plan, seed, work)

    def _island(self, plan: Plan | None, seed: int, work: Callable[[], Any]) -> Island:
        with placed(self.device, self.dtype), OF_BATCHES.collected() as failed, seeded(seed):
            island: Island = work().island(plan)
        return island._replace(failures=sum(int(each.sum()) for each in failed))

    def _fit(
        self, p: Callback, args: tuple[Any, ...], plan: Plan | None, islands: list[Island]
    ) -> Fit:
        """The islands' draws by their evidence, and what is known of both."""
        log_evidences = torch.stack([island.log_evidence for island in islands])
        alive = [island for island in islands if island.draws]
        if not alive:
            what = "no particle has positive weight"
            raise ZeroMassError(located(what, hint="check data and priors, or use more particles"))
        like = alive[0].draws
        kept = by_evidence(log_evidences, self.particles)
        draws = {}
        for name in like:
            each = [island.draws.get(name, torch.zeros_like(like[name])) for island in islands]
            draws[name] = torch.cat(each)[kept]
        if self.algorithm is None:
            fit = fit_from_vectors(LogDensity(p, *args), draws[""], method=self.method)
        else:
            fit = Fit(self.method, draws, latents=tuple(alive[0].latents))
        variance = sum(island.variance for island in alive) / len(alive)
        log_evidence, error = pooled(log_evidences, 0.0 if math.isnan(variance) else variance)
        sizes = torch.stack([island.effective_size for island in islands])
        history = {"log_evidence": log_evidences, "effective_size": sizes}
        failures = torch.tensor([island.failures for island in islands])
        if failures.any():
            history[NO_DECOMPOSITION] = failures
        return replace(
            fit,
            history=history,
            log_evidence=log_evidence,
            log_evidence_error=error,
            notes=(*fit.notes, *_notes(plan, islands, log_evidences, log_evidence)),
            report=() if plan is None else plan.report,
        )


def _content(plan: Plan | None, islands: dict[int, Island]) -> Content:
    """What a checkpoint keeps."""
    plain = None if plan is None else plan.plain()
    return {"plan": plain, "islands": {i: tuple(island) for i, island in islands.items()}}


@dataclass(frozen=True)
class _Islands:
    """The islands of a driver at a worker, where what makes them is made once."""

    driver: SMC
    p: Callback
    args: tuple[Any, ...]

    @cached_property
    def _work(self) -> Any:
        return self.driver._work(self.p, self.args, Progress(1, "", enabled=False))

    def __call__(self, plan: Plan | None, seed: int) -> Island:
        with torch.no_grad():
            return self.driver._island(plan, seed, lambda: self._work)


def _notes(
    plan: Plan | None, islands: list[Island], log_evidences: Tensor, log_evidence: float
) -> list[str]:
    """What a reader should know before believing the islands."""
    notes = [] if plan is None else list(plan.notes)
    alive = [island for island in islands if island.draws]
    notes += dict.fromkeys(note for island in alive for note in island.notes)
    notes += doubts.of_stages([island.worst for island in alive])
    expected = math.sqrt(sum(island.variance for island in alive) / len(alive))
    known = None if math.isnan(expected) else expected
    found = doubts.of_islands(log_evidences, known)
    if known is not None and not found:
        found = doubts.of_means(torch.stack([island.draws[""] for island in alive]))
        if plan is not None:
            spread = known if len(islands) == 1 else max(known, float(log_evidences.std()))
            found += doubts.between(plan.log_evidence, log_evidence, spread, len(islands))
    return [*notes, *found, *doubts.of_sizes(torch.stack([i.effective_size for i in alive]))]
