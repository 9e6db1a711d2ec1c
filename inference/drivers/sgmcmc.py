"""The driver SGMCMC: chains by gradients from batches of the data, without accept steps."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.distributions.data import as_arguments
from ...ppl.errors import ProgramError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.language.program import Callback
from ...ppl.tensors.capture import capture_values
from ...ppl.tensors.seeds import seeded
from ..mcmc import Kernel, sghmc
from ..mcmc.hamiltonian import Potential
from ..mcmc.sghmc import Moving
from ..results.fit import Fit, fit_from_vectors
from ..runs.progress import Progress
from ..runs.start import starting_points


class Conditional(NamedTuple):
    """Sites that are drawn given all others: ``draw`` maps all values of a chain to new ones."""

    sites: tuple[str, ...]
    draw: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


@dataclass(frozen=True)
class SGMCMC:
    """Chains by gradients from batches of the data: for networks, and for data too many to scan.

    The program takes the rows of a batch as its last argument, whole numbers or None for all data,
    and gives them to its plate, which scales the likelihood up:

        with plate("data", len(y), subsample=rows) as i:
            observe("y", dist.Normal(f[i], 0.1), y[i])

    **Draws have a bias**, which ``fit.report`` sizes and ``fit.warnings()`` tells of; no number of
    draws makes it smaller, but a smaller rate of the kernel does.

    Args:
        kernel: ``sghmc(rate, friction)``.
        chains: run together, each with batches of its own.
        draws: of each chain, each ``thin``-th transition after ``warmup``, which learns scales.
        discard: so many of the first draws are thrown away.
        batch: rows of a gradient, drawn with replacement; all rows where there are no more.
        gibbs: sites that the kernel leaves alone, and that are drawn each ``every`` transitions.
        progress: show a progress bar.

    Errors:
        ValueError: a setting is out of range.
    """

    kernel: Kernel = field(default_factory=sghmc)
    chains: int = 4
    draws: int = 40
    warmup: int = 2000
    thin: int = 200
    discard: int = 10
    batch: int = 32
    gibbs: Conditional | None = None
    every: int = 1000
    progress: bool = True

    def __post_init__(self) -> None:
        least = {name: getattr(self, name) for name in ("chains", "thin", "batch", "every")}
        if min(least.values()) < 1 or self.warmup < 0:
            raise ValueError(located(f"SGMCMC: settings are positive: {least}"))
        if not 0 <= self.discard < self.draws:
            what = f"SGMCMC: of {self.draws} draws {self.discard} are to be discarded"
            raise ValueError(located(what, hint="keep one at least"))

    def run(self, p: Callback, *args: Any, size: int, seed: int = 0) -> Fit:
        """Draw from about the posterior of ``p(*args, None)``, which has ``size`` rows of data.

        Errors:
            NoDensityError, UnsupportedDistributionError, InitializationError: as of ``MCMC.run``.
            FloatingPointError: a gradient is not finite; it names the transition.
        """
        start, args = time.perf_counter(), as_arguments(args)
        if size < 1:
            raise ValueError(located(f"SGMCMC: there is a row of data at least, not {size}"))
        total = self.warmup + self.draws * self.thin
        with seeded(seed), Progress(total, "SGMCMC", self.progress) as progress:
            whole = LogDensity(p, *args, None)
            u = starting_points(whole, self.chains)
            potential = self.potential(p, args, size, u)
            sampler: Any = self.kernel.sample
            about = self._conditional(whole, potential, u)

            def report(done: int, total: int, info: Any, parameters: Any) -> None:
                progress.advance(1, phase="warmup" if done <= self.warmup else "draws")

            samples = sampler(
                self.kernel, potential, u, self.warmup, self.draws,
                thin=self.thin, progress=report, **about,
            )  # fmt: skip
            kept = samples.draws[:, self.discard :]
            return fit_from_vectors(
                whole,
                kept,
                method=f"SGMCMC ({self.kernel.name})",
                stats={name: x[:, self.discard :] for name, x in samples.stats.items()},
                seed=seed,
                seconds=time.perf_counter() - start,
                interrupted=samples.interrupted,
                report=samples.report,
                notes=samples.notes,
            )

    def potential(self, p: Callback, args: tuple[Any, ...], size: int, u: Tensor) -> Potential:
        """Unbiased log densities [chains] and gradients [chains, d], each by a batch of its own."""
        n = min(self.batch, size)
        every = torch.arange(n, device=u.device)
        density = LogDensity(p, *args, every)

        def one(vector: Tensor, rows: Tensor) -> Tensor:
            at = copy.copy(density)
            at.args = (*args, rows)
            return at(vector)

        each = torch.func.vmap(torch.func.grad_and_value(one))
        graph = capture_values(each, u, every.expand(len(u), n).contiguous())
        uniform = dist.Uniform(u.new_zeros(()), u.new_ones(()), validate_args=False)

        def found(u: Tensor) -> tuple[Tensor, Tensor]:
            rows = every.expand(len(u), n)
            if n < size:
                share = draw(uniform, (len(u), n), label="rows")
                rows = (size * share).long().clamp(max=size - 1)
            gradient, value = graph(u, rows)
            return value, gradient

        return found

    def _conditional(self, whole: LogDensity, potential: Potential, u: Tensor) -> dict[str, Any]:
        """What the sampler is to know of sites that are drawn by themselves."""
        if self.gibbs is None:
            return {}
        layout, gibbs = whole.layout, self.gibbs
        unknown = set(gibbs.sites) - {block.name for block in layout.blocks}
        if unknown:
            raise ProgramError(located(f"SGMCMC: gibbs names no latents: {sorted(unknown)}"))
        still = torch.zeros_like(u[0], dtype=torch.bool)
        for block in layout.blocks:
            if block.name in gibbs.sites:
                still[block.start : block.stop] = True

        def drawn(vector: Tensor) -> Tensor:
            values, _ = layout.unpack(vector)
            return layout.pack({**values, **gibbs.draw(values)})

        def after(done: int, state: Moving) -> Moving:
            if done % self.every:
                return state
            position = torch.stack([drawn(vector) for vector in state.position])
            return Moving(position, *potential(position), state.momentum)

        return {"after": after, "still": still}
