"""Chains of a kernel on traces: one run of the program after another, for any program."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from ..ppl.abstract import check_program
from ..ppl.errors import InitializationError, checked, located
from ..ppl.interpret import seeded
from ..ppl.program import Callback, program_name
from .kernels.kernel import TraceKernel
from .progress import Progress
from .results import Fit
from .traces import Traced, traced

REDUCIBLE = "the chain may be reducible, so move sites together, by block(...) or gibbs([...])"
TRIES = 1000  # runs from the prior, until one has positive density


def start(p: Callback, *args: Any) -> Traced:
    """A run from the prior whose density is positive.

    Errors:
        InitializationError: a thousand runs had density zero, or one is NaN or infinite.
    """
    for _ in range(TRIES):
        run = traced(p, {}, {}, *args, draws=None)
        assert run is not None  # nothing was given that could be impossible
        log_density = float(run.log_density)
        if math.isnan(log_density) or log_density == math.inf:
            what = f"the log density of {program_name(p)} is {log_density} at a run from the prior"
            raise InitializationError(located(what, hint="check the scores and scales"))
        if log_density > -math.inf:
            return run._replace(drawn=frozenset())
    what = f"none of {TRIES} runs of {program_name(p)} from the prior has positive density"
    raise InitializationError(located(what, hint="soften the observations, or use smc or annealed"))


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
) -> Fit:
    """Draws of the sites that every run has; of the others the notes tell.

    The kernel is not adapted: the first ``warmup`` steps are only left out.
    """
    begun = time.perf_counter()
    check_program(p, *args)
    kept: list[list[Traced]] = []
    rates: list[list[float]] = []
    outcomes: dict[str, list[bool]] = defaultdict(list)
    interrupted = False
    title = f"MCMC ({kernel.name})"
    with (
        checked(),
        seeded(seed),
        torch.no_grad(),
        Progress(chains * (warmup + draws), title, progress) as bar,
    ):
        try:
            for chain in range(chains):
                run = start(p, *args)
                kept.append([])
                rates.append([])
                for t in range(warmup + draws):
                    run, accepted = kernel.step(run, p, *args)
                    moves = [yes for each in accepted.values() for yes in each]
                    for name, each in accepted.items():
                        outcomes[name] += each
                    if t >= warmup:
                        kept[-1].append(run)
                        rates[-1].append(sum(moves) / len(moves) if moves else 1.0)
                    bar.advance(chain=str(chain + 1), lp=float(run.log_density))
        except KeyboardInterrupt:
            interrupted = True
            size = min(map(len, kept), default=0) if len(kept) == chains else 0
            if not size:
                raise
            kept, rates = [each[:size] for each in kept], [each[:size] for each in rates]
    found, notes = _stacked(kept)
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
            "lp": torch.stack([torch.stack([r.log_density for r in each]) for each in kept]),
            "acceptance_rate": torch.tensor(rates, dtype=torch.float64),
        },
        latents=tuple(name for name in found if name in kept[0][0].choices),
        seed=seed,
        seconds=time.perf_counter() - begun,
        interrupted=interrupted,
        notes=tuple(notes),
    )


def missed(outcomes: dict[str, list[bool]]) -> list[str]:
    """The sites that were to be moved and never were there."""
    return [name for name, tried in outcomes.items() if not tried]


def _where(x: Tensor) -> str:
    """Words for draws that are constant in each chain: whether also between chains."""
    return ", though it differs between chains" if bool((x != x[:1]).any()) else ""


def _stacked(kept: list[list[Traced]]) -> tuple[dict[str, Tensor], list[str]]:
    """The draws [chains, draws, *shape] of the sites that all runs have, in one shape."""
    rows = [[{**run.choices, **run.derived} for run in each] for each in kept]
    runs = [values for each in rows for values in each]
    names = dict.fromkeys(name for values in runs for name in values)
    shapes = {n: {v[n].shape if n in v else None for v in runs} for n in names}
    common = [name for name in names if len(shapes[name]) == 1]
    draws = {
        name: torch.stack([torch.stack([v[name] for v in each]) for each in rows])
        for name in common
    }
    missing = [name for name in names if name not in common]
    notes = [f"not every run has {', '.join(missing)}: their draws are left out"] if missing else []
    return draws, notes
