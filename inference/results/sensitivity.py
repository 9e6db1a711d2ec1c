"""How far the posterior moves when prior or likelihood count a little more or less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.special import xlogy

from ...ppl.distributions.validate import no_validation
from ...ppl.errors import DataError, located
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.effects import Message
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, program_name
from ..runs.placing import both_there, placed
from .fit import CHUNK, Fit
from .groups import as_arrays
from .pareto import TRUSTED, Smoothed, smoothed

if TYPE_CHECKING:
    import pandas

COLUMNS = ("prior", "likelihood", "diagnosis")
DELTA = 0.01  # the powers are 1 + DELTA and 1 / (1 + DELTA)
SENSITIVE = 0.05  # a normal law whose mean moves by a quarter of its sd per doubling of a power
VARIED = 0.1  # weights: by a standard deviation of less means move by less than a tenth of theirs
CONFLICT, STRONG, NEITHER = "prior and data disagree", "strong prior or weak data", "-"


class _Totals(Recorder):
    """Records what each site adds to the log density, with its scale: ``totals``, [] by name."""

    def __enter__(self) -> _Totals:
        self.totals: dict[str, Tensor] = {}
        super().__enter__()
        return self

    def _postprocess_message(self, msg: Message) -> None:
        before, known = self.log_density, len(self.log_probs)
        super()._postprocess_message(msg)
        if len(self.log_probs) > known:
            self.totals[next(reversed(self.log_probs))] = torch.as_tensor(self.log_density - before)


def sensitivity(
    fit: Fit,
    p: Callback,
    *args: Any,
    prior: Sequence[str] | None = None,
    likelihood: Sequence[str] | None = None,
    sites: Sequence[str] | None = None,
) -> pandas.DataFrame:
    """A row for each number of a fit: how it moves with a power of the prior, and of the data.

    ``prior`` and ``likelihood``: the distance, per doubling of the power, between the posterior and
    that under a power near 1, by importance weights; 0 is no change.  ``diagnosis``: where the
    first is 0.05 or more, "prior and data disagree" if so is the second, and "strong prior or weak
    data" if not; else "-".  Where weights vary and have a heavy tail it says not to believe it.

    Args:
        p: the program with its data, and ``args`` its arguments, that the fit is of.
        prior: the latents whose law is raised to a power; all unless given.  In a hierarchy name
            those at its top: the laws of the effects are part of the model.
        likelihood: the sites of data; all unless given.
        sites: the rows; all draws unless given.

    Source: Kallioinen, Paananen, Buerkner and Vehtari (arXiv 2107.14054), sections 2.2 to 2.4; the
    distance is the square root of the cumulative Jensen-Shannon divergence of Nguyen and Vreeken
    (2015) over its upper bound, of the numbers or of their negatives, whichever is greater.

    Errors:
        DataError: the fit lacks a latent of the program; there is no such site, or nothing is
            observed; or a factor without entries is in neither of ``prior`` and ``likelihood``.
    """
    import pandas

    p, args = both_there(p, args, None, fit.dtype)
    with placed(None, fit.dtype):
        record = _recorded(p, args, {name: x[0, 0] for name, x in fit.draws.items()})
    parts = _parts(p, record, fit, prior, likelihood)

    def one(values: dict[str, Tensor]) -> dict[str, Tensor]:
        found = _recorded(p, args, values).totals
        return {
            part: torch.stack([found[name] for name in names]).sum(0)
            for part, names in parts.items()
        }

    flat = {name: fit[name].flatten(0, 1) for name in record.of("latent")}
    with placed(None, fit.dtype), torch.no_grad():
        logs = torch.func.vmap(one, chunk_size=CHUNK)(flat)
    own = fit.stats.get("log_weight")
    base = torch.zeros(fit.chains * fit.size) if own is None else own.flatten().cpu()
    scaled = {part: _weights(x, base.double()) for part, x in logs.items()}
    usual = smoothed(base)
    worst = max(_doubt(each) for each in (usual, *scaled["prior"], *scaled["likelihood"]))
    chosen = {name: fit[name] for name in sites} if sites else fit.draws
    rows = {name: _row(x, usual, scaled, worst) for name, x in _numbers(chosen)}
    return pandas.DataFrame.from_dict(rows, orient="index", columns=list(COLUMNS))


def _recorded(p: Callback, args: tuple[Any, ...], values: Mapping[str, Tensor]) -> _Totals:
    with no_validation(), Sealed(), _Totals(values, density=True, validate=False) as record:
        p(*args)
    return record


def _parts(
    p: Callback,
    record: Recorder,
    fit: Fit,
    prior: Sequence[str] | None,
    likelihood: Sequence[str] | None,
) -> dict[str, Sequence[str]]:
    """The sites of the prior and of the likelihood."""
    latents = record.of("latent")
    if missing := [name for name in latents if name not in fit.draws]:
        what = f"the fit holds no draws of {missing}, which {program_name(p)} samples"
        raise DataError(located(what, hint="give the program that was fitted: marginal(...)"))
    parts: dict[str, Sequence[str]] = {
        "prior": [*latents] if prior is None else [*prior],
        "likelihood": [*record.pointwise] if likelihood is None else [*likelihood],
    }
    named = [name for names in parts.values() for name in names]
    if unknown := [name for name in named if name not in record.log_probs]:
        hint = f"it scores {list(record.log_probs)}"
        raise DataError(located(f"{program_name(p)} scores no {unknown}", hint=hint))
    if None in (prior, likelihood) and (loose := [x for x in record.factors if x not in named]):
        what = f"the factor '{loose[0]}' may be of the prior or of the data"
        raise DataError(located(what, hint="name it in prior=[...] or likelihood=[...]"))
    for part, names in parts.items():
        if not names:
            what = f"{program_name(p)} has no {part} to raise to a power"
            raise DataError(located(what, hint="give the program with its data"))
    return parts


def _numbers(sites: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """The draws of each number [chains * draws], by name."""
    for name, x in as_arrays(sites).items():
        for index in np.ndindex(*x.shape[2:]):
            yield (
                f"{name}[{', '.join(map(str, index))}]" if index else name,
                x[:, :, *index].ravel(),
            )


def _weights(logs: Tensor, own: Tensor) -> tuple[Smoothed, Smoothed]:
    """Weights of the draws for powers below and above 1 of a part with these logs [n]."""
    logs = logs.detach().cpu().double()
    below, above = (smoothed(own + (power - 1.0) * logs) for power in (1 / (1 + DELTA), 1 + DELTA))
    return below, above


def _doubt(weights: Smoothed) -> float:
    """k-hat of weights [n] that vary enough to mislead; of others it tells nothing, and is 0."""
    variation = weights.error * len(weights.log_weights) ** 0.5
    return weights.k_hat if variation > VARIED else 0.0


def _row(
    x: Any, usual: Smoothed, scaled: Mapping[str, tuple[Smoothed, Smoothed]], k_hat: float
) -> tuple[float, float, str]:
    """How far draws [n] of a number move, and what that tells."""
    moved = {
        part: sum(distance(x, usual.log_weights.exp(), each.log_weights.exp()) for each in pair)
        / (2.0 * np.log2(1.0 + DELTA))
        for part, pair in scaled.items()
    }
    prior, likelihood = moved["prior"], moved["likelihood"]
    if k_hat > TRUSTED:
        return prior, likelihood, f"not to be believed: a k-hat of {k_hat:.2f}"
    if not prior >= SENSITIVE:
        return prior, likelihood, NEITHER
    return prior, likelihood, CONFLICT if likelihood >= SENSITIVE else STRONG


def distance(x: Any, weights: Tensor, others: Tensor) -> float:
    """Between laws on the same points [n], by two sets of weights: from 0 to 1.

    A constant is as far as it is from itself: 0.
    """
    points, order = torch.as_tensor(x).double().sort()
    width = points.diff()
    one, two = (w.double()[order].cumsum(0).clamp(max=1.0)[:-1] for w in (weights, others))
    return max(_apart(one, two, width), _apart(1.0 - one, 1.0 - two, width))


def _apart(one: Tensor, two: Tensor, width: Tensor) -> float:
    """The distance of distribution functions that are constant on intervals of this width."""
    middle, bound = (one + two) / 2, float(width @ (one + two))
    entropies = xlogy(one, one) + xlogy(two, two) - 2 * xlogy(middle, middle)
    divergence = float(width @ entropies) / np.log(2.0)
    return float(np.sqrt(max(divergence, 0.0) / bound)) if bound > 0 else 0.0
