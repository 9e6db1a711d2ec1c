"""Priors of regression coefficients of which few are large: the horseshoe, and R2D2."""

from __future__ import annotations

import math

import torch
from pyro import distributions as dist
from torch import Tensor

from ..ppl import deterministic, program, sample
from ..ppl.errors import ProgramError, located


@program
def horseshoe(
    size: int,
    scale: Tensor | float = 1.0,
    slab: float | None = None,
    slab_df: float = 4.0,
    name: str = "horseshoe",
) -> Tensor:
    """Coefficients [size]: normal, with a half-Cauchy deviation each times one of all.

    Sites are ``name/global``, ``name/local`` and ``name/unit`` (not centred, for NUTS), with a
    ``slab`` also ``name/slab``; the coefficients are the derived site ``name``.

    Args:
        scale: of the global half-Cauchy law; see ``global_scale``.
        slab: the deviation that the largest coefficients have about, of a Student law with
            ``slab_df`` degrees; None is the horseshoe without one.

    Source: Carvalho, Polson, Scott, Biometrika 97 (2010); Piironen, Vehtari, Electronic Journal of
        Statistics 11 (2017) for the slab.

    Errors:
        ProgramError: there are no coefficients.
    """
    _require_some(size)
    overall = sample(f"{name}/global", dist.HalfCauchy(scale))
    local = sample(f"{name}/local", dist.HalfCauchy(torch.ones(size)).to_event(1))
    unit = sample(f"{name}/unit", dist.Normal(torch.zeros(size), 1.0).to_event(1))
    spread = overall * local
    if slab is not None:
        half = torch.tensor(slab_df / 2)
        square = sample(f"{name}/slab", dist.InverseGamma(half, half * slab**2))
        spread = spread * (square / (square + spread.square())).sqrt()
    return deterministic(name, unit * spread)


def global_scale(relevant: float, size: int, count: int, noise: float = 1.0) -> float:
    """The scale of a horseshoe for which about so many of ``size`` coefficients are large.

    Args:
        relevant: how many, between 0 and size; count: of observations; noise: their deviation.

    Source: Piironen and Vehtari (2017), equation 3.12.

    Errors:
        ProgramError: ``relevant`` is out of range.
    """
    if not 0 < relevant < size:
        raise ProgramError(located(f"{relevant} of {size} coefficients cannot be relevant"))
    return relevant / (size - relevant) * noise / math.sqrt(count)


@program
def r2d2(
    size: int,
    noise: Tensor | float,
    mean: float = 0.5,
    precision: float = 2.0,
    concentration: float = 0.5,
    name: str = "r2d2",
) -> Tensor:
    """Coefficients [size] of standardised predictors, by a Beta law of the share R2 they explain.

    Sites are ``name/R2``, ``name/share`` (a Dirichlet law of how it is shared) and ``name/unit``;
    the coefficients, of variance noise^2 share R2 / (1 - R2), are the derived site ``name``.

    Args:
        noise: the deviation of the observations.
        mean, precision: of the Beta law: Beta(mean precision, (1 - mean) precision).
        concentration: of the Dirichlet law; below one, few coefficients have most.

    Source: Zhang, Naughton, Bondell, Reich, Journal of the American Statistical Association 117
        (2022).

    Errors:
        ProgramError: there are no coefficients.
    """
    _require_some(size)
    a, b = torch.tensor(mean * precision), torch.tensor((1 - mean) * precision)
    explained = sample(f"{name}/R2", dist.Beta(a, b))
    share = sample(f"{name}/share", dist.Dirichlet(torch.full((size,), concentration)))
    unit = sample(f"{name}/unit", dist.Normal(torch.zeros(size), 1.0).to_event(1))
    odds = explained / (1 - explained)
    return deterministic(name, noise * unit * (share * odds).sqrt())


def _require_some(size: int) -> None:
    if size < 1:
        raise ProgramError(located(f"a prior of coefficients needs at least one, not {size}"))
