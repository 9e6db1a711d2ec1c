"""Leave-one-out cross-validation: how well each observation is predicted by the others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...ppl.errors import DataError, located
from ...ppl.pages import text
from .pareto import TRUSTED, smoothed


@dataclass(frozen=True)
class Loo:
    """The log density of each observation under the posterior of all others, [*shape] by site.

    ``k_hat``: how heavy the tail of its importance weights is; above 0.7 an entry is not believed.
    ``fitted``: its log density under the posterior of all.  All are NaN for entries that were not
    seen, which count nothing.
    ``factors``: what the model scores besides, and nothing says of which observation.
    """

    pointwise: dict[str, Tensor]
    k_hat: dict[str, Tensor]
    fitted: dict[str, Tensor]
    factors: tuple[str, ...] = ()

    @property
    def elpd(self) -> float:
        """The sum over the observations that have one."""
        return float(self._known(self.pointwise).sum())

    @property
    def error(self) -> float:
        """The standard error of ``elpd``, for observations that are alike."""
        known = self._known(self.pointwise)
        return float(known.std() * math.sqrt(len(known))) if len(known) > 1 else math.nan

    @property
    def parameters(self) -> float:
        """The effective number of parameters: what is lost by leaving out."""
        return float(self._known(self.fitted).sum()) - self.elpd

    def _known(self, values: Mapping[str, Tensor]) -> Tensor:
        kept = [values[name][x.isfinite()] for name, x in self.pointwise.items()]
        return torch.cat([x.reshape(-1) for x in kept])

    def warnings(self) -> list[str]:
        """What is not counted, and the observations that are not to be believed, one by one."""
        hint = "if it is of data, give it in a plate, an entry for each"
        found = [f"the factor '{name}' is not counted: {hint}" for name in self.factors]
        for name, each in self.pointwise.items():
            for index in np.ndindex(*each.shape):
                entry = f"{name}{list(index)}" if index else name
                if math.isnan(float(self.k_hat[name][index])):
                    continue  # it was not seen
                if not math.isfinite(float(each[index])):
                    found.append(f"{entry} is impossible at some draws: it is left out of the sum")
                elif float(self.k_hat[name][index]) > TRUSTED:
                    k_hat = float(self.k_hat[name][index])
                    found.append(f"{entry} has a k-hat of {k_hat:.2f}: fit the model without it")
        return found

    def _repr_html_(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        lines = [f"elpd {self.elpd:.2f} +- {self.error:.2f}, {self.parameters:.2f} parameters"]
        return "\n".join([*lines, *(f"  {line}" for line in self.warnings())])


def leave_one_out(
    log_likelihood: Mapping[str, Tensor],
    factors: tuple[str, ...] = (),
    log_weights: Tensor | None = None,
    observed: Mapping[str, Tensor] | None = None,
) -> Loo:
    """By Pareto smoothed importance sampling from the posterior of all, [chains, draws, *shape].

    A constant observation is what it is, and one that takes few values has no tail.

    Args:
        log_weights: of draws that are of another law, log p - log q, [chains, draws].
        observed: the data by site, of which entries that are NaN are no observations.

    Source: Vehtari, Gelman and Gabry (arXiv 1507.04544); with weights Magnusson, Andersen, Jonasson
    and Vehtari (arXiv 1904.10679).

    Errors:
        DataError: there is no log likelihood, or that of a single draw.
    """
    if not log_likelihood:
        what = "the fit holds no log likelihood to leave observations out of"
        hint = "if the model observes data at named sites, give it to the fit by fit.log_likelihood"
        raise DataError(located(what, hint=f"{hint} = log_likelihood(fit, model, *args)"))
    draws = next(iter(log_likelihood.values())).flatten(0, 1).shape[0]
    if draws < 2:
        what = f"a fit of {draws} draw{'s' * (draws != 1)} is no posterior to leave data out of"
        raise DataError(located(what, hint="fit by MCMC, SMC, Exact or Laplace"))
    own = torch.zeros(draws) if log_weights is None else log_weights.flatten().cpu()
    own = own.double()
    pointwise: dict[str, Tensor] = {}
    k_hat: dict[str, Tensor] = {}
    fitted: dict[str, Tensor] = {}
    for name, logs in log_likelihood.items():
        rows = logs.detach().cpu().double().flatten(0, 1)
        entries = [_left_out(row, own) for row in rows.reshape(draws, -1).T]
        found = torch.tensor(entries, dtype=torch.float64).reshape(*rows.shape[1:], 3)
        if observed is not None and name in observed:
            found[unseen(observed[name], rows.shape[1:])] = math.nan
        pointwise[name], k_hat[name], fitted[name] = found.unbind(-1)
    return Loo(pointwise, k_hat, fitted, factors)


def unseen(data: Tensor, shape: torch.Size) -> Tensor:
    """Which of the entries [*shape] of a site, events as a whole, were not seen: they are NaN."""
    missing = data.detach().cpu().isnan()
    if not bool(missing.any()):
        return torch.zeros(shape, dtype=torch.bool)
    return missing.reshape(*shape, -1).any(-1).reshape(shape)


def _left_out(logs: Tensor, own: Tensor) -> tuple[float, float, float]:
    """Of one observation, by its log densities at the draws: left out, k-hat, and fitted.

    ``own``: the log weights of the draws [n], which smooth ones stand for in what is fitted.
    """
    fitted = float(torch.logsumexp(logs + smoothed(own).log_weights, 0))
    if not bool(logs.isfinite().all()):
        return (math.nan if bool(logs.isnan().any()) else -math.inf), math.inf, fitted
    weights = smoothed(own - logs)
    return float(torch.logsumexp(logs + weights.log_weights, 0)), weights.k_hat, fitted
