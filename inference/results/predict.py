"""Prediction: what a program samples anew, given the draws of a fit, or nothing at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl import vmap
from ...ppl.distributions.masks import is_image
from ...ppl.distributions.validate import no_validation
from ...ppl.errors import (
    BranchError,
    DataError,
    ProgramError,
    PushforwardError,
    UnsupportedDistributionError,
    implemented,
    located,
)
from ...ppl.interpretations.abstract_run import AbstractRun, abstract_run
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.combinators import stack_outputs
from ...ppl.language.effects import Message, is_deterministic, is_draw
from ...ppl.language.handlers import Sealed, Untracing
from ...ppl.language.program import Callback, program_name
from ...ppl.tensors.seeds import seeded
from ..runs.placing import both_there, placed
from .fit import CHUNK, POINTWISE_LIMIT, TOO_LARGE, Fit, plates_of
from .not_held import integrated_out, not_held
from .prediction import Prediction

Discrete = Literal["sample", "max", "prior"]
Real = Literal["sample", "prior"]


class _Unobserved(Recorder):
    """Records a run in which observed sites are sampled again: ``data``."""

    def __enter__(self) -> _Unobserved:
        self.data: list[str] = []
        super().__enter__()
        return self

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["is_observed"]:
            auxiliary = msg["infer"].get("is_auxiliary") or is_deterministic(msg)
            if not (auxiliary or is_draw(msg) or is_image(msg["fn"], msg["value"])):
                msg["is_observed"], msg["value"] = False, None
                self.data.append(msg["name"])
        super()._process_message(msg)


def predict(
    fit: Fit | int,
    p: Callback,
    *args: Any,
    given: Sequence[str] | None = None,
    discrete: Discrete | None = None,
    real: Real | None = None,
    seed: int = 0,
) -> Prediction:
    """Run ``p(*args)`` once for each draw of a fit, with its latents given and the rest sampled.

    Observed sites are sampled again, so the model may be given with or without its data; the
    arguments may be new ones.  Latents that the fit does not hold, as they were summed or
    integrated out, are drawn from their posterior given the latents that it holds and the data that
    ``p(*args)`` observes, exactly: finite ones, and real ones in which the log density is
    quadratic.

    Args:
        fit: the fit, or a number of draws for the prior predictive.
        given: the latents to take from the fit; all that it holds by default.  Leave out those that
            new arguments change, such as the effects of other groups.
        discrete: of the finite latents that are not given: "sample", draws from their joint
            posterior; "max", its most probable joint value for each draw of the fit; "prior", draws
            from their law without data, as for new observations.  Unless told, "sample" for those
            that the fit does not hold, and "prior" for those that ``given`` leaves out.
        real: of the other latents that are not given, likewise: "sample" or "prior".

    Errors:
        DataError: a latent of the fit does not fit the program, or is not in it; or latents of the
            prior predictive are to have a posterior.
        ProgramError: finite latents cannot be summed out, as where data depend on them and on a
            latent that is not given; or others cannot be integrated out, as where they are not
            real, or the density is not quadratic in them.
        BudgetError: too many of them depend on each other.
        ZeroMassError: the data are impossible, whatever they are.
        InfiniteMassError: the real ones have no posterior.
    """
    _require_word(fit, discrete, "discrete", get_args(Discrete))
    _require_word(fit, real, "real", get_args(Real))
    dtype = fit.dtype if isinstance(fit, Fit) else None
    p, args = both_there(p, args, None, dtype)
    with placed(None, dtype):
        return _predict(fit, p, args, _given(fit, given), discrete, real, seed)


def _predict(
    fit: Fit | int,
    p: Callback,
    args: tuple[Any, ...],
    names: Collection[str],
    discrete: Discrete | None,
    real: Real | None,
    seed: int,
) -> Prediction:
    draws = {name: fit[name] for name in names} if isinstance(fit, Fit) else {}
    lead = (fit.chains, fit.size) if isinstance(fit, Fit) else (1, fit)
    run: AbstractRun | None = None
    try:
        run = _fitting(p, args, draws)
    except BranchError:  # a program without a type is checked while it runs
        if discrete in ("sample", "max") or real == "sample":
            raise

    dims: dict[str, list[str]] = {}
    data: dict[str, None] = {}

    def one(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], Any]:
        with Untracing(), _Unobserved(values, density=False, validate=False) as recorder:
            value = p(*args)
        _require_sampled(p, values.keys(), recorder.of("latent").keys())
        new = {name: x for name, x in recorder.values.items() if name not in draws}
        dims.update({name: recorder.dims[name] for name in new})
        data.update(dict.fromkeys(recorder.data))
        return new, value

    flat = {name: x.reshape(-1, *x.shape[2:]) for name, x in draws.items()}
    total = lead[0] * lead[1]
    with seeded(seed), torch.no_grad(), implemented():
        if run is not None and isinstance(fit, Fit):
            held = _left_alone(run, fit, names, discrete, real)
            flat = {**flat, **integrated_out(p, args, run, flat, held, total)}
            missing = not_held(p, args, run, flat, held, total, most_probable=discrete == "max")
            flat = {**flat, **missing}
        try:
            parts = [
                vmap(one, size=min(CHUNK, total - i))(
                    {name: x[i : i + CHUNK] for name, x in flat.items()}
                )
                for i in range(0, total, CHUNK)
            ]
        except (BranchError, ProgramError, UnsupportedDistributionError) as error:
            parts = _one_by_one(one, flat, total, error)

    def join(*x: Tensor | None) -> Tensor | None:
        chunks = [chunk for chunk in x if chunk is not None]
        return torch.cat(chunks).reshape(*lead, *chunks[0].shape[1:]) if chunks else None

    sites, value = tree_map(join, *parts)
    return Prediction(sites, value, dims, tuple(data), prior=isinstance(fit, int))


def _require_word(fit: Fit | int, word: str | None, option: str, words: tuple[str, ...]) -> None:
    if word not in (None, *words):
        raise ValueError(f"{option} is one of {words} or None, not {word!r}")
    if isinstance(fit, int) and word in ("sample", "max"):
        what = f"the prior predictive has no posterior: {option}={word!r}"
        raise DataError(located(what, hint=f"give a fit, or leave {option} out"))


def _left_alone(
    run: AbstractRun, fit: Fit, names: Collection[str], discrete: str | None, real: str | None
) -> set[str]:
    """The latents that are given, and those that a run is to draw from their law without data."""
    found = {*names}
    for name, site in run.sites.items():
        word = discrete if site.space.finite else real
        if not site.observed and (word == "prior" or (word is None and name in fit.latents)):
            found.add(name)
    return found


def _fitting(p: Callback, args: tuple[Any, ...], draws: dict[str, Tensor]) -> AbstractRun:
    """The abstract run of a program that samples the sites of the draws, in their shapes."""
    run, _ = abstract_run(p, *args)
    sampled = {name: site for name, site in run.sites.items() if not site.observed}
    _require_sampled(p, draws.keys(), sampled.keys())
    for name, x in draws.items():
        if tuple(x.shape[2:]) != sampled[name].space.shape:
            raise DataError(
                located(
                    f"predict: '{name}' is {list(x.shape[2:])} in the fit, and "
                    f"{list(sampled[name].space.shape)} in the program",
                    site=name,
                    hint="leave it out of given= to sample it anew",
                )
            )
    return run


def _require_sampled(p: Callback, given: Collection[str], sampled: Collection[str]) -> None:
    if unknown := [name for name in given if name not in sampled]:
        raise DataError(
            located(
                f"predict: {program_name(p)} samples no {unknown}",
                hint=f"it samples {list(sampled)}; name those to take from the fit in given=",
            )
        )


def _one_by_one(
    one: Callable[[dict[str, Tensor]], Any], flat: dict[str, Tensor], total: int, refusal: Exception
) -> list[Any]:
    """The program run by itself for each draw, where lanes are refused."""
    with no_validation():
        runs = [one({name: x[i] for name, x in flat.items()}) for i in range(total)]
    try:
        return [stack_outputs(runs)]
    except (ValueError, RuntimeError):  # the draws give results of different structure
        raise refusal from None


def _given(fit: Fit | int, given: Sequence[str] | None) -> tuple[str, ...]:
    if isinstance(fit, int):
        if fit < 1 or given:
            raise DataError(located("the prior predictive needs a positive number and no given="))
        return ()
    for name in given or ():
        if name not in fit.latents:
            raise DataError(
                located(f"predict: '{name}' is no latent of the fit", hint=f"it has {fit.latents}")
            )
    return fit.latents if given is None else tuple(given)


def log_likelihood(fit: Fit, p: Callback, *args: Any) -> dict[str, Tensor]:
    """The log density of each observed entry of ``p(*args)`` at each draw, [chains, draws, *shape].

    Factors that have entries count too.

    ``p`` is the program with its data, or with other data of the same names: LOO and WAIC of ArviZ
    take the result, as do held-out scores.
    """
    p, args = both_there(p, args, None, fit.dtype)
    one, flat = partial(_pointwise, p, args), _flat(fit)
    with placed(None, fit.dtype), torch.no_grad():
        try:
            scores = torch.func.vmap(one, chunk_size=CHUNK)(flat)
        except RuntimeError as error:  # control flow or laws that lanes refuse
            (scores,) = _one_by_one(one, flat, fit.chains * fit.size, error)
    if not scores:
        raise DataError(located(f"{program_name(p)} observes nothing", hint="condition it on data"))
    return _by_chain(fit, scores)


def _pointwise(p: Callback, args: tuple[Any, ...], values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The log density of each observed entry of ``p(*args)`` at one draw."""
    with no_validation(), Sealed(), Recorder(values, density=True, validate=False) as recorder:
        p(*args)
    found: dict[str, Tensor] = recorder.pointwise
    return found


def _flat(fit: Fit) -> dict[str, Tensor]:
    """The latents, [chains * draws, *shape]."""
    return {name: fit[name].flatten(0, 1) for name in fit.latents}


def _by_chain(fit: Fit, flat: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: x.reshape(fit.chains, fit.size, *x.shape[1:]) for name, x in flat.items()}


def with_log_likelihood(fit: Fit, p: Callback, args: tuple[Any, ...]) -> Fit:
    """A fit that holds the log likelihood of ``p(*args)`` too, its data, and their plates.

    It is left as it is where lanes refuse the program, where the density is random, as of a plate
    that draws its subsample, or where the fit lacks a latent; and told of where it is too large.
    """
    held = _flat(fit)
    try:
        run, _ = abstract_run(p, *args)
        latents = {name for name, site in run.sites.items() if not site.observed}
        if run.draws or run.subsampled or not latents <= held.keys():
            return fit
        first = {name: x[0] for name, x in held.items()}
        recording = Recorder(first, density=True, validate=False)
        with torch.no_grad(), no_validation(), Sealed(), recording as record:
            p(*args)
        entries = sum(x.numel() for x in record.pointwise.values())
        if entries * fit.chains * fit.size > POINTWISE_LIMIT:
            return replace(fit, notes=(*fit.notes, TOO_LARGE))
        one = partial(_pointwise, p, args)
        with torch.no_grad():
            found = torch.func.vmap(one, chunk_size=CHUNK)(held) if entries else {}
    except (PushforwardError, RuntimeError, ValueError):
        return fit
    about: dict[str, Any] = {"observed": record.of("observed"), "factors": record.factors}
    return replace(
        fit, log_likelihood=_by_chain(fit, found), dims={**plates_of(record), **fit.dims}, **about
    )
