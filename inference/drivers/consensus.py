"""The driver Consensus: parts of the data are fitted apart, and their posteriors combined."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

from ...ppl import draw, factor, sample
from ...ppl.errors import DataError, ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback, Program, program, program_name
from ...ppl.tasks.checkpoint import Checkpoint, Store, stream
from ...ppl.tasks.workers import Client, Workers
from ...ppl.tensors.abstract_tensor import Mark, abstract, marks_of
from ...ppl.tensors.keys import fingerprint
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit
from ..runs.placing import placed, settled
from ..runs.progress import Progress

VECTOR = "_coordinates"
OF_THE_WHOLE = -1  # the number of the randomness that combines the parts


class Driver(Protocol):
    """What fits a part: ``MCMC(nuts())``, ``Pathfinder()``, ``ADVI()``."""

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit: ...


@dataclass(frozen=True)
class Consensus:
    """Fit parts of the data apart, each with its share of the prior, and combine the posteriors.

    The posterior is the product of the parts': part s has the density prior^(1/S) likelihood_s, in
    unconstrained coordinates.  Only draws travel back, so that no machine holds all data.

    **The result is exact only if the posterior of each part is normal in these coordinates**, or as
    the parts grow and become so; else it is biased, by an amount that no number of draws makes
    smaller, and that is larger the smaller the parts are.  ``fit.warnings()`` always says so, with
    the largest skewness of a part.  A latent must be shared by all data: one of each datum cannot
    be combined.

    ``combine="average"``: draw i is the mean of draws i of the parts, each weighted by its inverse
    covariance (Scott et al., Bayes and big data: the consensus Monte Carlo algorithm, 2016).  It
    keeps some of the shape of the parts.  ``"normal"``: draws of the product of normal laws that
    have the means and covariances of the parts (Neiswanger, Wang, Xing, arXiv 1311.4780, section
    3.1).

    Args:
        driver: fits a part.
        shards: S, how many parts.
        combine: how.
        progress: show a progress bar.
    """

    driver: Driver
    shards: int
    combine: Literal["average", "normal"] = "average"
    progress: bool = True

    def __post_init__(self) -> None:
        if self.shards < 1:
            raise ValueError(f"Consensus: shards is at least 1, not {self.shards}")
        if self.combine not in ("average", "normal"):
            raise ValueError(f"Consensus: combine is 'average' or 'normal', not {self.combine!r}")

    def run(
        self,
        p: Callback,
        *rows: Any,
        seed: int = 0,
        checkpoint: Checkpoint | str | Path | None = None,
        executor: Executor | Client | None = None,
    ) -> Fit:
        """Approximate the posterior of ``p(*rows)``.

        Args:
            rows: the arguments of the program, tensors of one length: part s gets every S-th row,
                from row s on.
            checkpoint: a file where the fits of parts are kept, and from which a run that was
                killed goes on.
            executor: whose workers fit the parts: a ``ProcessPoolExecutor``, a client of Dask, or
                any other whose workers are processes.  The result is the same.

        Errors:
            DataError: the rows are no tensors of one length, or fewer than parts; or a latent has
                another shape in a part than in the whole.
            ProgramError: a part has too few draws for a covariance; the executor has lost too many
                workers.
            UnsupportedDistributionError: a latent is discrete.
        """
        start = time.perf_counter()
        place = settled(p, rows, dtype=getattr(self.driver, "dtype", None))
        p, rows = place.program, place.args
        parts = self._parts(rows)
        with placed(None, place.dtype):
            whole = _require_shared(p, rows, parts)
        store = Store(checkpoint, self._about(p, rows, seed))
        kept = (store.content or {"parts": {}})["parts"]
        fits: dict[int, Fit] = {s: Fit(**part) for s, part in kept.items()}
        left = {s: part for s, part in enumerate(parts) if s not in fits}
        with Progress(self.shards, f"Consensus of {self.shards} parts", self.progress) as progress:
            progress.advance(len(fits))
            for s, fit in self._fits(p, place.dtype, left, seed, executor):
                fits[s] = fit
                store.write({"parts": {number: asdict(each) for number, each in fits.items()}})
                progress.advance()
        vectors = [fits[s][VECTOR].double() for s in range(self.shards)]
        with placed(None, place.dtype), seeded(stream(seed, OF_THE_WHOLE)):
            u, skewness = combined(vectors, self.combine)
        values = torch.func.vmap(torch.func.vmap(lambda at: whole.unpack(at)[0]))(u.to(whole.dtype))
        told = [f"part {s}: {note}" for s in range(self.shards) for note in fits[s].warnings()]
        return Fit(
            f"Consensus ({self.shards} parts, {self.combine}; {fits[0].method})",
            values,
            latents=tuple(values),
            seed=seed,
            seconds=time.perf_counter() - start,
            notes=(_bias(self.shards, skewness), *place.notes, *told),
        )

    def _parts(self, rows: tuple[Any, ...]) -> list[tuple[Tensor, ...]]:
        lengths = {len(x) if isinstance(x, Tensor) and x.ndim else None for x in rows}
        if len(lengths) != 1 or None in lengths:
            what = "the data must be tensors of one length, which is cut into parts"
            raise DataError(located(what, hint="close the program over what is not cut"))
        if min(len(x) for x in rows) < self.shards:
            what = f"{len(rows[0])} rows are too few for {self.shards} parts"
            raise DataError(located(what, hint="lower shards"))
        return [tuple(x[s :: self.shards] for x in rows) for s in range(self.shards)]

    def _about(self, p: Callback, rows: tuple[Any, ...], seed: int) -> dict[str, Any]:
        """What a checkpoint belongs to."""
        what = fingerprint((p, rows, _quiet(self.driver)))
        return {"seed": seed, "shards": self.shards, "program, data or driver": what}

    def _fits(
        self,
        p: Callback,
        dtype: torch.dtype,
        parts: dict[int, tuple[Tensor, ...]],
        seed: int,
        executor: Executor | Client | None,
    ) -> Iterator[tuple[int, Fit]]:
        """By number, the fits of the parts, as they get done."""
        work = _Part(_quiet(self.driver, dtype=dtype), p, self.shards, dtype)
        tasks = {s: (rows, stream(seed, s)) for s, rows in parts.items()}
        if executor is not None:
            yield from Workers(executor, work).results(tasks)
            return
        for s, task in tasks.items():
            yield s, work(*task)


@dataclass(frozen=True)
class _Part:
    """The task of a worker: to fit one part."""

    driver: Driver
    program: Callback
    shards: int
    dtype: torch.dtype

    def __call__(self, rows: tuple[Tensor, ...], seed: int) -> Fit:
        with placed(None, self.dtype):
            fit = self.driver.run(part_of(self.program, self.shards, *rows), seed=seed)
        return replace(fit, log_likelihood={}, observed={}, state={})


def part_of(p: Callback, shards: int, *rows: Tensor) -> Program:
    """The program of a vector u [d] with the density prior^(1 / shards) likelihood of ``p(*rows)``.

    The prior is that of the unconstrained coordinates, its Jacobian included: so the product over
    the parts of all data is the density of the whole, but for a constant.
    """
    density = LogDensity(p, *rows)
    d, like = density.layout.size, torch.zeros((), dtype=density.layout.dtype)

    jumps = {Mark(VECTOR, True, mark.jump) for mark, _ in density.jumps.values()}

    @program
    def part() -> None:
        flat = dist.ImproperUniform(constraints.real_vector, (), (d,))
        u = sample(VECTOR, flat)
        if marks := marks_of(u):  # what the program of the data compares is known already
            factor("density", abstract(like, marks | jumps))
            return
        prior, likelihood = density.prior_and_likelihood(u.to(like))
        factor("density", prior / shards + likelihood)

    return part


def combined(vectors: list[Tensor], combine: str) -> tuple[Tensor, float]:
    """Vectors [chains, draws, d] of the product of laws, of which vectors are given; and the
    largest skewness of a coordinate of one.

    Errors:
        ProgramError: there are too few draws for a covariance of full rank.
    """
    flat = [x.flatten(0, 1) for x in vectors]
    n, d = flat[0].shape
    means = torch.stack([x.mean(0) for x in flat])
    covariances = torch.stack([torch.cov(x.T).reshape(d, d) for x in flat])
    factors, failed = torch.linalg.cholesky_ex(covariances)
    if n <= d or bool(failed.any()):
        what = f"{n} draws of a part have no covariance of rank {d}"
        raise ProgramError(located(what, hint="take more draws"))
    weights = torch.cholesky_inverse(factors)
    root = torch.linalg.cholesky(weights.sum(0))
    scaled = [
        (x - m) / c.diagonal().sqrt() for x, m, c in zip(flat, means, covariances, strict=True)
    ]
    skewness = max(float((x**3).mean(0).abs().max()) for x in scaled)
    if combine == "average":
        total = sum((x @ w for x, w in zip(vectors, weights, strict=True)), torch.zeros(()))
        solved = torch.cholesky_solve(total.reshape(n, d).T, root).T
        return solved.reshape(vectors[0].shape), skewness
    mean = torch.cholesky_solve((weights @ means[..., None]).sum(0), root)[:, 0]
    standard = dist.Normal(torch.zeros_like(mean), torch.ones_like(mean))
    noise = draw(standard, (n,), label="product")
    spread = torch.linalg.solve_triangular(root.T, noise.T, upper=True).T
    return (mean + spread).reshape(vectors[0].shape), skewness


def _require_shared(p: Callback, rows: tuple[Any, ...], parts: list[tuple[Tensor, ...]]) -> Any:
    """The layout of the latents, which must be those of a part."""
    with torch.no_grad():
        whole, part = (LogDensity(p, *given).layout for given in (rows, parts[0]))
    if whole.size == 0:
        raise ProgramError(located(f"{program_name(p)} has no latent"))
    shapes = ({b.name: tuple(b.shape) for b in layout.blocks} for layout in (whole, part))
    ours, theirs = shapes
    for name, shape in ours.items():
        if theirs.get(name) != shape:
            what = f"the latent is {list(shape)} for all data, and another in a part of them"
            hint = "only latents that all data share can be combined; sum out those of each datum"
            raise DataError(located(what, site=name, hint=hint))
    return whole


def _quiet(driver: Any, **told: Any) -> Any:
    """The driver without a bar of its own, and with what it is told, if it has a place for it."""
    if not is_dataclass(driver) or isinstance(driver, type):
        return driver
    told = {"progress": False, **told}
    return replace(driver, **{name: told[name] for name in told if hasattr(driver, name)})


def _bias(shards: int, skewness: float) -> str:
    what = f"combined from {shards} parts, which is exact only if the posterior of each is normal"
    return f"{what} in unconstrained coordinates; the largest skewness of one is {skewness:.2f}"
