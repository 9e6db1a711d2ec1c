"""What islands come to together: their evidence with its error, and draws by their evidence."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .resampling import Scheme, systematic


def pooled(log_evidences: Tensor, variance: float = 0.0) -> tuple[float, float | None]:
    """The log of the mean evidence of M independent islands, and its standard error.

    The error belongs to Student's law of M - 1 degrees of freedom: the log evidence lies within it
    times that law's 0.975 quantile (12.7 for 2 islands, 3.2 for 4, 2.3 for 10) with at least 95 %
    of confidence, if the islands' log evidences have a standard deviation s up to about 1.  It is
    the error of a log mean of log-normal numbers, sqrt(s^2 / M + s^4 / (2 (M - 1))): estimates of
    evidences are log-normal in the limit (Berard, Del Moral and Doucet, "A lognormal central limit
    theorem for particle approximations of normalizing constants").  Where an island's evidence is
    zero, it is that of the delta method.

    Evidences are estimated without bias; each log lies s^2 / 2 too low on average, and that of
    their mean s^2 / (2 M).

    Args:
        variance: of a log evidence if moves forget all, which s^2 is taken not to be below.  A
            single island has this alone for its error, and none where it is zero.
    """
    n = len(log_evidences)
    log_mean = float(torch.logsumexp(log_evidences, 0)) - math.log(n)
    if n == 1:
        return log_mean, math.sqrt(variance) or None
    if not bool(log_evidences.isfinite().all()):
        return log_mean, float((log_evidences - log_mean).exp().std()) / math.sqrt(n)
    variance = max(variance, float(log_evidences.var()))
    return log_mean, math.sqrt(variance / n + variance**2 / (2 * (n - 1)))


def by_evidence(log_evidences: Tensor, size: int, scheme: Scheme = systematic) -> Tensor:
    """Which draws to keep of M islands of ``size`` equally weighted ones each, [M, size].

    Draw j of island i is number i * size + j, and kept M times the island's share of the evidence
    in expectation, so that islands of no evidence are left out.  Row i holds draws of island i as
    long as there are any, each once, and the rest of those of which more are to be kept.
    """
    n = len(log_evidences)
    kept = scheme(log_evidences.repeat_interleave(size))
    island = torch.div(kept, size, rounding_mode="floor")
    again = torch.zeros_like(kept, dtype=torch.bool)
    again[1:] = kept[1:] == kept[:-1]
    own = [kept[(island == i) & ~again] for i in range(n)]
    others = kept[again]
    rows, used = [], 0
    for each in own:
        lacking = size - len(each)
        rows.append(torch.cat([each, others[used : used + lacking]]))
        used += lacking
    return torch.stack(rows)
