"""The driver of sequential Monte Carlo: independent populations, the posterior and its evidence."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl import compiled
from ...ppl.distributions.data import as_arguments
from ...ppl.errors import ProgramError, ZeroMassError, located
from ...ppl.interpretations.abstract_run import check_program
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, Program, program_name
from ...ppl.tensors.decompositions import NO_DECOMPOSITION, OF_BATCHES
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit, fit_from_vectors
from ..runs.checkpoint import Checkpoint, Store, stream
from ..runs.placing import Device, moved, placed, with_data_there
from ..runs.progress import Progress
from ..runs.recording import recorded
from ..smc.population import Population, together
from ..smc.resampling import resample
from ..smc.tempered_islands import tempering

Algorithm = Callable[[Program, int], Program]


class Island(NamedTuple):
    """What a population came to: equally weighted draws, its evidence and effective size.

    ``draws``: unconstrained vectors [particles, d] of tempered runs, under the name ``""``; else
    the latents and deterministic sites by name, [particles, *shape].  ``failures``: at how many
    points a matrix had no decomposition.
    """

    draws: dict[str, Tensor]
    latents: list[str]
    log_evidence: Tensor
    effective_size: Tensor
    failures: int = 0


@dataclass(frozen=True, repr=False)
class SMC:
    """Sequential Monte Carlo: weighted particles become draws, and their weight the evidence.

    ``SMC`` is a driver, which runs a method on real work; ``smc`` is a program, one of the methods.

    Without an ``algorithm`` it is tempered SMC, for programs whose latents are continuous:
    particles from the prior are weighted by powers of the likelihood, and moved by HMC.  The moves
    keep each power's density invariant for any metric and step size; these are set from the
    particles at each stage (variances, and 1 / d^(1/4)), which makes the evidence estimate
    consistent, where fixed ones would make it unbiased.

    Islands are independent runs, each of a stream of its own: their spread gives the standard
    error, and they are the chains of the result.

    Args:
        particles: on each island.
        islands: independent populations.
        algorithm: from a program and a number of particles to a program that returns a population,
            such as ``particle_filter``, ``smc``, ``importance``, or
            ``lambda p, n: particle_filter(p, n, ess=0.5)``.  Its latents may be discrete.
        stages: of tempering: how many powers, spaced as (k / stages)^3.
        moves: of tempering: HMC transitions of each particle at each stage.
        compiled: compile the log density, or the loops and lanes of the algorithm, with Inductor.
        device: where to compute, and where the data are moved; torch's default unless given.
        dtype: the precision of what the program makes, and of the data; likewise.
        progress: show a progress bar.
    """

    particles: int = 1000
    islands: int = 4
    algorithm: Algorithm | None = None
    stages: int = 20
    moves: int = 3
    compiled: bool = True
    device: Device = None
    dtype: torch.dtype | None = None
    progress: bool = True

    def __post_init__(self) -> None:
        if min(self.particles, self.islands, self.stages, self.moves) < 1:
            raise ValueError("SMC needs at least one particle, island, stage and move")

    def run(
        self,
        p: Callback,
        *args: Any,
        seed: int = 0,
        checkpoint: Checkpoint | str | Path | None = None,
        executor: Executor | None = None,
    ) -> Fit:
        """Draw from the posterior of ``p(*args)`` and estimate its evidence.

        Args:
            seed: of all randomness; equal seeds give equal fits on one machine.
            checkpoint: a file where finished islands are kept, and from which a run that was killed
                goes on.
            executor: runs the islands, in processes of its own (``ProcessPoolExecutor``, or that of
                a cluster); the program and its arguments are sent there.  The result is the same.

        Errors:
            ZeroMassError: no particle of an island has positive weight.
            UnsupportedDistributionError: tempering meets a discrete latent, or a prior that cannot
                be sampled.
        """
        start = time.perf_counter()
        p = with_data_there(p, self.device, self.dtype)
        args = moved(as_arguments(args), self.device, self.dtype)
        if isinstance(executor, ThreadPoolExecutor):
            what = "islands cannot run in threads, which share torch's generator and the handlers"
            raise ProgramError(located(what, hint="use a ProcessPoolExecutor"))
        settings = {name: getattr(self, name) for name in ("particles", "stages", "moves")}
        place = {"device": str(self.device), "dtype": str(self.dtype), "compiled": self.compiled}
        about = {"method": self.method, "seed": seed, **place, **settings}
        data = {"program, data or algorithm": fingerprint((p, args, self.algorithm))}
        store = Store(checkpoint, {**about, **data})
        islands = [Island(*each) for each in (store.content or {"islands": []})["islands"]]
        del islands[self.islands :]
        interrupted = False
        per_island = 1 if self.algorithm or executor else self.stages
        title = f"{self.method}, {self.islands} islands"
        with torch.no_grad(), Progress(self.islands * per_island, title, self.progress) as progress:
            progress.advance(len(islands) * per_island)
            seeds = [stream(seed, i) for i in range(len(islands), self.islands)]
            try:
                for island in self._islands(p, args, seeds, progress, executor):
                    islands.append(island)
                    store.write({"islands": [tuple(each) for each in islands]})
                    size = float(island.effective_size)
                    figures = {"ess": size, "log_evidence": float(island.log_evidence)}
                    progress.advance(per_island if per_island == 1 else 0, **figures)
            except KeyboardInterrupt:
                if not islands:
                    raise
                interrupted = True
            with placed(self.device, self.dtype):
                fit = self._fit(p, args, islands)
        log_evidences = torch.stack([island.log_evidence for island in islands])
        log_evidence, error = pooled(log_evidences)
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
            seed=seed,
            seconds=time.perf_counter() - start,
            interrupted=interrupted,
            notes=(*fit.notes, *_poor(sizes)),
        )

    def __repr__(self) -> str:
        tempering = f": {self.stages} powers, {self.moves} HMC moves at each"
        what = tempering if self.algorithm is None else ""
        return f"<{self.method}{what}; {self.islands} islands of {self.particles} particles>"

    @property
    def method(self) -> str:
        """A name for the result."""
        return f"SMC ({'tempered' if self.algorithm is None else program_name(self.algorithm)})"

    def _islands(
        self,
        p: Callback,
        args: tuple[Any, ...],
        seeds: list[int],
        progress: Progress,
        executor: Executor | None,
    ) -> Iterator[Island]:
        if executor is None:
            with placed(self.device, self.dtype):
                run = self._sampler(p, args, progress)
            for seed in seeds:
                with (
                    seeded(seed),
                    placed(self.device, self.dtype),
                    OF_BATCHES.collected() as failed,
                ):
                    island = run()
                yield island._replace(failures=sum(int(each.sum()) for each in failed))
        else:
            quiet = replace(self, progress=False)
            futures = [executor.submit(_island, quiet, p, args, seed) for seed in seeds]
            try:
                for future in futures:
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    def _sampler(self, p: Callback, args: tuple[Any, ...], progress: Progress) -> Any:
        """The function that makes one island."""
        if self.algorithm is None:
            algorithm = tempering(
                LogDensity(p, *args),
                self.particles,
                self.stages,
                self.moves,
                compiled=self.compiled,
                notify=progress.say,
                watch=progress.advance,
            )
            return lambda: _drawn(algorithm(), lambda vectors: ({"": vectors}, [""]))
        check_program(p, *args)
        algorithm = self.algorithm(recorded(p), self.particles)
        if self.compiled:
            algorithm = compiled(algorithm, progress.say)

        def named(values: Any) -> tuple[dict[str, Tensor], list[str]]:
            runs = together(values).by_step()
            return {**runs.choices, **runs.derived}, list(runs.choices)

        return lambda: _drawn(algorithm(*args), named)

    def _fit(self, p: Callback, args: tuple[Any, ...], islands: list[Island]) -> Fit:
        names = islands[0].draws
        draws = {name: torch.stack([each.draws[name] for each in islands]) for name in names}
        if self.algorithm is None:
            return fit_from_vectors(LogDensity(p, *args), draws[""], method=self.method)
        return Fit(self.method, draws, latents=tuple(islands[0].latents))


def _island(driver: SMC, p: Callback, args: tuple[Any, ...], seed: int) -> Island:
    """One island, in a process of its own."""
    with torch.no_grad(), Progress(1, "", enabled=False) as progress, seeded(seed):
        return next(driver._islands(p, args, [seed], progress, None))


def _drawn(population: Population, named: Callable[[Any], Any]) -> Island:
    """Equally weighted draws of a population, with its evidence."""
    log_evidence = population.log_evidence()
    if float(log_evidence) == -math.inf:
        what = "no particle has positive weight"
        raise ZeroMassError(located(what, hint="check data and priors, or use more particles"))
    draws, latents = named(resample(population)[0].values)
    return Island(draws, latents, log_evidence, population.effective_size())


def _poor(sizes: Tensor) -> list[str]:
    """A note if the last weights rest on hardly a particle."""
    worst = float(sizes.min())
    if worst >= 2.0:
        return []
    what = f"the effective sample size falls to {worst:.1f}: hardly a particle carries the weight"
    return [f"{what}; use more particles, or a better proposal"]


def pooled(log_evidences: Tensor) -> tuple[float, float | None]:
    """The log of the mean evidence of independent runs, and its delta-method standard error."""
    n = len(log_evidences)
    log_mean = torch.logsumexp(log_evidences, 0) - math.log(n)
    if n == 1:
        return float(log_mean), None
    relative = (log_evidences - log_mean).exp()
    return float(log_mean), float(relative.std() / math.sqrt(n))
