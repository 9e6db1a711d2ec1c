"""Programs about programs: ``do`` (interventions), ``marginal`` and ``normalize``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor
from torch.utils._pytree import tree_map

from ..distributions.data import as_data
from ..errors import NoDensityError, ProgramError, ZeroMassError, located
from ..tensors.hidden import is_known
from .combinators import untraced, weighted
from .effects import draw, emit
from .handlers import Intervening, Untracing
from .program import Callback, Program, ask, derived, program_name


def do(p: Callback, values: dict[str, Any]) -> Program:
    """The program p with the sites named in ``values`` set from outside: they are no longer sites.

    Unlike ``condition`` this does not score them: what they depended on keeps its prior.

    Errors:
        DataError: p has no such site, or the value does not fit it.
    """
    fixed = {name: as_data(name, value) for name, value in values.items()}

    def intervened(*args: Any, **kwargs: Any) -> Any:
        with Intervening(fixed) as handler:
            value = p(*args, **kwargs)
        handler.require_all_used(program_name(p))
        return value

    return derived(intervened, f"do({program_name(p)}, {sorted(values)})")


def marginal(
    p: Callback, keep: str | Sequence[str] | None = None, *, exact: bool = False
) -> Program:
    """The program p of which only the latents named in ``keep`` are part of the trace.

    The others become anonymous draws: the measure on results is the same, the density of a trace is
    an integral over them, which ``assess`` does not know.

    With ``exact`` they are summed or integrated out: the program has a density, so that NUTS or SVI
    run on what is kept, and it returns the latents that are kept, by name.  They must all be
    finite, or all be real with a log density that is quadratic in them (normal laws whose means are
    affine in others).  Without ``keep`` they are all that are finite.  Finite chains and trees cost
    what their lengths are, not the number of their joint values; real ones the cube of how many are
    tied to each other given what is kept.

    Errors:
        ProgramError: a latent of that name was not met; or (``exact``) they are neither all finite
            nor all real, the density is not quadratic, or one that is kept depends on one that is
            not.
        BudgetError: (``exact``) too many finite latents depend on each other.
    """
    if keep is None and not exact:
        raise ProgramError(located("marginal needs the names of the latents to keep"))
    kept = frozenset([keep] if isinstance(keep, str) else keep or ())
    if exact:
        summed: Program = ask(
            "summed out", p, None if keep is None else kept, f"marginal({program_name(p)})"
        )
        return summed

    def marginalised(*args: Any, **kwargs: Any) -> Any:
        with Untracing(kept) as handler:
            value = p(*args, **kwargs)
        if missing := kept - handler.met:
            raise ProgramError(
                located(f"marginal keeps {sorted(missing)}, which {program_name(p)} did not sample")
            )
        return value

    return derived(marginalised, f"marginal({program_name(p)}, {sorted(kept)})")


@dataclass(frozen=True)
class Ideal:
    """A normalised measure with finitely many values: what ``normalize`` means exactly."""

    values: tuple[Any, ...]
    probs: Tensor

    def draw(self) -> Any:
        return self.values[int(draw(dist.Categorical(self.probs), label="normalize"))]


def normalize(p: Callback, particles: int | None = None) -> Program:
    """The probability measure proportional to that of p: a query inside a program.

    Without ``particles`` this is the ideal, which only exact interpretations know (``denote``, or
    any inside ``with semantics.ideal():``).  With ``particles`` = n it is the law of sampling
    importance resampling: n weighted runs of p, one of them chosen by weight.  The two differ, and
    checks tell them apart.

    Errors:
        NoDensityError: the ideal is asked for where it is not known.
        ZeroMassError: every run has weight zero.
    """

    def normalized(*args: Any) -> Any:
        if particles is None:
            return ideal(p, *args).draw()
        return _resampled(untraced(weighted(p)), particles, args)

    return derived(normalized, f"normalize({program_name(p)})")


def ideal(p: Callback, *args: Any) -> Ideal:
    """The normalised measure of ``p(*args)``, where an exact interpretation answers.

    Errors:
        NoDensityError: none does.
        ZeroMassError, InfiniteMassError: there is none.
    """

    def unknown(*args: Any) -> Ideal:
        raise NoDensityError(
            located(
                f"normalize({program_name(p)}) is an ideal that sampling does not know",
                hint="give it particles=, or evaluate exactly: denote, or `with ideal():`",
            )
        )

    answer: Ideal = emit("normalize", unknown, args, infer={"query": p})
    return answer


def _resampled(run: Callable[..., tuple[Any, Any]], particles: int, args: tuple[Any, ...]) -> Any:
    if particles < 1:
        raise ProgramError(located(f"normalize needs at least one particle, not {particles}"))
    values, log_weights = zip(*(run(*args) for _ in range(particles)), strict=True)
    stacked = torch.stack([torch.as_tensor(w, dtype=torch.float64) for w in log_weights])
    if is_known(stacked) and bool(torch.isneginf(stacked).all()):
        raise ZeroMassError(located("normalize: every particle has weight zero"))
    index = draw(dist.Categorical(logits=stacked), label="normalize")
    if is_known(index):
        return values[int(index)]
    return tree_map(lambda *leaves: _picked(leaves, index), *values)


def _picked(leaves: tuple[Any, ...], index: Tensor) -> Tensor | None:
    """The leaf of an index that Python cannot look at."""
    if leaves[0] is None:
        return None
    stacked = torch.stack([torch.as_tensor(leaf) for leaf in leaves])
    return stacked.index_select(0, index.reshape(1)).squeeze(0)
