"""Draws of a fitted guide, and how far they can be trusted."""

from __future__ import annotations

import math
import time
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.distributions.data import as_arguments
from ...ppl.errors import BranchError
from ...ppl.interpretations.abstract_run import UNTYPED
from ...ppl.language.batching import run_batched
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..results.fit import Fit
from ..results.predict import with_log_likelihood
from .gradients.replay import Notes, Run, Settings
from .guides import typed
from .language.traces import log_density, sample_trace
from .trust import judged


def posterior(model: Callback, guide: Any, *args: Any, draws: int = 1000, seed: int = 0) -> Fit:
    """Draws of the guide, [1, draws, *shape] by site, with their log weights under the model.

    ``stats["log_weight"]`` are log p - log q, and the fit's log evidence is the log of their mean.
    ``stats["k_hat"]`` is the shape of their tail, the same for all draws: above 0.7 the guide
    misses parts of the posterior.  It is NaN, and there is no evidence, where the guide has no
    density, since it proposes single points for a continuous latent.  The log likelihood is that of
    the draws, which ``fit.loo()`` weighs.

    Source: Yao, Vehtari, Simpson, Gelman, Yes, but did it work? (arXiv 1802.02538).
    """
    start = time.perf_counter()
    args = as_arguments(args)

    def one() -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
        found: list[Any] = []

        def weigh() -> Tensor:
            trace = sample_trace(guide, *args)
            log_p = log_density(model, trace.choices, *args)
            found[:] = [trace.choices, trace.derived, log_p, trace.log_density]
            return log_p

        Run(weigh, Settings(biased=True), Notes(), forward=True).surrogate()
        return found[0], found[1], found[2], found[3]

    with seeded(seed), torch.no_grad():
        try:
            choices, derived, log_p, log_q = run_batched(one, (), (), draws)
        except BranchError:
            rows = [one() for _ in range(draws)]
            choices, derived, log_p, log_q = tree_map(lambda *x: torch.stack(x), *rows)
    epsilon = torch.finfo(log_p.dtype).eps
    trust = judged(log_p, log_q, proposed="the guide", epsilon=epsilon)
    if points := _points(model, args, choices):
        what = f"the guide has no density: it proposes one point for {', '.join(points)}"
        note = f"{what}; how good it is, and the evidence, are unknown"
        trust = trust._replace(k_hat=math.nan, notes=[note])
    fit = Fit(
        f"SVI ({program_name(guide)})",
        {name: x[None] for name, x in {**choices, **derived}.items()},
        stats={
            "log_weight": trust.log_weights[None],
            "k_hat": torch.full((1, draws), trust.k_hat),
        },
        latents=tuple(choices),
        log_evidence=None if points else trust.log_evidence,
        log_evidence_error=None if points else trust.error,
        seed=seed,
        seconds=time.perf_counter() - start,
        notes=tuple(trust.notes),
    )
    return with_log_likelihood(fit, model, args)


def _points(model: Callback, args: tuple[Any, ...], choices: dict[str, Tensor]) -> list[str]:
    """The continuous latents of which an entry is the same in all of several draws."""
    still = [
        name
        for name, x in choices.items()
        if len(x) > 1 and x.is_floating_point() and bool((x == x[0]).all(0).any())
    ]
    if not still:
        return []
    with suppress(*UNTYPED):
        sites = typed(model, args).sites
        return [repr(n) for n in still if n in sites and sites[n].space.smooth]
    return []
