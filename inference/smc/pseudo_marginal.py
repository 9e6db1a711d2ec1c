"""Pseudo-marginal models: parameters in the trace, everything else behind an unbiased estimate.

Andrieu and Roberts 2009; Andrieu, Doucet and Holenstein 2010; Chopin, Jacob and Papaspiliopoulos
2013 (SMC^2).
"""

from __future__ import annotations

from collections.abc import Callable as Function
from typing import Any

from ...ppl.language.program import Callback, Program, program_name
from .population import Population, collapse, push_evidence


def pseudo_marginal(
    prior: Callback, algorithm: Function[..., Any], *, pushed: bool = False
) -> Program:
    """The program that draws parameters, and scores an estimate of the evidence that they give.

    ``prior(*args)`` returns the parameters, and ``algorithm(parameters, *args)`` a ``Population``
    of results: ``smc(model, 10)``, for example.  The program returns (parameters, one result).  Its
    trace has the latents of the prior; the algorithm's randomness is drawn anonymously.

    Invariant: if the algorithm is valid, this is the measure of prior and model together.  So every
    kernel on this program leaves the posterior invariant, though it only estimates the evidence:
    PMMH is ``single_site()`` or a ``block`` on it, SMC^2 is ``smc`` of it with such a ``move``.

    Args:
        pushed: the algorithm scores its evidence itself, step by step (``smc(..., evidence=...)``),
            so that SMC^2 can stop between the steps.
    """

    def run(*args: Any) -> tuple[Any, Any]:
        parameters = prior(*args)
        population: Population = algorithm(parameters, *args)
        if not pushed:
            population = push_evidence(population)
        return parameters, collapse(population)[0]

    run.__name__ = run.__qualname__ = f"pseudo_marginal({program_name(prior)})"
    return Program(run)
