"""Single-site Metropolis-Hastings on programs whose structure may change.

Wingate, Stuhlmueller and Goodman 2011 (lightweight implementations of probabilistic programming
languages), with the choices of other spaces drawn anew, so that the way back is the same.
"""

from __future__ import annotations

from typing import Any

import torch
from pyro import distributions as dist

from ...ppl import draw
from ...ppl.language.program import Callback
from .kernel import Acceptance, Moved, TraceKernel, decide, log_ratio, metropolis
from .traces import Traced, fresh, traced


def single_site(accept: Acceptance = metropolis) -> TraceKernel:
    """Pick one of the n choices, draw it anew from its law, and run the program with the others.

    Choices whose space changes, and those that were not there, are drawn too.  With n' choices
    afterwards the way back picks the same one with probability 1 / n', so n / n' is a part of the
    ratio.
    """

    def step(run: Traced, p: Callback, *args: Any) -> Moved:
        n = len(run.choices)
        if not n:
            return Moved(run, {})
        names = list(run.choices)
        site = names[int(draw(dist.Categorical(torch.ones(n, dtype=torch.float64)), label="site"))]
        others = {name: value for name, value in run.choices.items() if name != site}
        proposed = traced(p, others, run.laws, *args, draws=fresh(run))
        assert proposed is not None  # the spaces of what is given are those of the run
        ratio = log_ratio(run, proposed) + torch.tensor(n / len(proposed.choices)).log()
        return decide(run, proposed, ratio, accept, site)

    return TraceKernel(step, "single_site")
