"""Draws of a fitted guide, and how far they can be trusted."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.distributions.data import as_arguments
from ...ppl.errors import BranchError
from ...ppl.language.batching import run_batched
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit
from ..results.pareto import TRUSTED, smoothed
from .gradients.replay import Notes, Run, Settings
from .language.traces import log_density, sample_trace


def posterior(model: Callback, guide: Any, *args: Any, draws: int = 1000, seed: int = 0) -> Fit:
    """Draws of the guide, [1, draws, *shape] by site, with their log weights under the model.

    ``stats["log_weight"]`` are log p - log q, and the fit's log evidence is the log of their mean.
    ``stats["k_hat"]`` is the shape of their tail, the same for all draws: above 0.7 the guide
    misses parts of the posterior.

    Source: Yao, Vehtari, Simpson, Gelman, Yes, but did it work? (arXiv 1802.02538).
    """
    start = time.perf_counter()
    args = as_arguments(args)

    def one() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        found: list[Any] = []

        def weigh() -> Tensor:
            trace = sample_trace(guide, *args)
            log_weight = log_density(model, trace.choices, *args) - trace.log_density
            found[:] = [trace.choices, trace.derived, log_weight]
            return log_weight

        Run(weigh, Settings(biased=True), Notes(), forward=True).surrogate()
        return found[0], found[1], found[2]

    with seeded(seed), torch.no_grad():
        try:
            choices, derived, log_weights = run_batched(one, (), (), draws)
        except BranchError:
            rows = [one() for _ in range(draws)]
            choices, derived, log_weights = tree_map(lambda *x: torch.stack(x), *rows)
    _, k_hat, log_evidence, error = smoothed(log_weights)
    notes: tuple[str, ...] = ()
    if k_hat > TRUSTED:
        notes = (f"k-hat is {k_hat:.2f}, above {TRUSTED}: the guide misses parts of the posterior",)
    return Fit(
        f"SVI ({program_name(guide)})",
        {name: x[None] for name, x in {**choices, **derived}.items()},
        stats={"log_weight": log_weights[None], "k_hat": torch.full((1, draws), k_hat)},
        latents=tuple(choices),
        log_evidence=log_evidence,
        log_evidence_error=error,
        seed=seed,
        seconds=time.perf_counter() - start,
        notes=notes,
    )
