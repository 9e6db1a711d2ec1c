"""Where chains are told to start: where a climb leads, at values, at draws of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.compile.potential import Potential
from ...ppl.distributions.data import as_data
from ...ppl.errors import DataError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.tensors.keys import fingerprint
from ..results.fit import Fit
from ..runs.paths import Target, pathfinder
from ..runs.paths.peak import climbed
from ..runs.start import completed

Climbing = Literal["map", "laplace", "pathfinder"]
Init = Literal["random"] | Climbing | Mapping[str, Any] | Fit
_WORDS = ("random", *get_args(Climbing))

TRIES = 25  # draws of a normal law, of which a chain starts at the first that it can


def require_init(init: Init) -> None:
    """Raise unless chains may be told so; values by site are looked at for being numbers."""
    if isinstance(init, Mapping):
        for name, value in init.items():
            _real(name, value)
    elif not isinstance(init, Fit) and not (isinstance(init, str) and init in _WORDS):
        words = ", ".join(map(repr, _WORDS))
        raise ValueError(located(f"init is {words}, values by site, or a fit, not {init!r}"))


def identity(init: Init) -> str:
    """What tells a run that starts so from one that starts otherwise."""
    if isinstance(init, str):
        return init
    return fingerprint(init.draws if isinstance(init, Fit) else dict(init))


def given_starts(
    density: LogDensity, init: Mapping[str, Any] | Fit, chains: int, rewritten: tuple[str, ...]
) -> Tensor:
    """Vectors [chains, d] at values by site, or at draws of a fit, which differ if it has so many.

    Sites that are left out start at random.  ``rewritten``: what made the density's program
    another than that of the values.

    Errors:
        DataError: a name is none of a latent of the density, or a value is no tensor of real
            numbers or not of its shape.
        SupportError: a value lies outside its support.
        InitializationError: the log density or its gradient is not finite there.
    """
    values = _of_fit(init, chains) if isinstance(init, Fit) else init
    layout = density.layout
    blocks = {block.name: block for block in layout.blocks}
    if unknown := [name for name in values if name not in blocks]:
        hint = f"the latents are {', '.join(blocks)}"
        if rewritten:
            hint = f"rewrite='auto' made the program another ({', '.join(rewritten)}), and {hint}"
            hint += ": leave rewrite out, or start by init='pathfinder'"
        names = ", ".join(map(str, unknown))
        raise DataError(located(f"init: no latent site is called {names}", hint=hint))
    given = torch.full((chains, layout.size), torch.nan, dtype=layout.dtype)
    own = {name: _of_chains(name, x, blocks[name].shape, chains) for name, x in values.items()}
    anywhere, _ = layout.unpack(given.new_zeros(layout.size))
    for i, row in enumerate(given):
        vector = layout.pack({**anywhere, **{name: x[i] for name, x in own.items()}})
        for name in own:
            place = slice(blocks[name].start, blocks[name].stop)
            row[place] = vector[place]
    return completed(density, given)


def _of_fit(fit: Fit, chains: int) -> dict[str, Tensor]:
    """The latents at draws that are chosen by chance, [chains, *shape]."""
    n = fit.chains * fit.size
    if n == 0:
        raise DataError(located("init: the fit holds no draws", hint="run it longer"))
    order = draw(dist.Uniform(0.0, 1.0), (n,), label="order").argsort()
    chosen = order[torch.arange(chains, device=order.device) % n]
    return {name: fit[name].flatten(0, 1).to(order.device)[chosen] for name in fit.latents}


def _real(name: str, value: Any) -> Tensor:
    """A value as a tensor of real numbers."""
    what = f"init: {value!r} is no real number, and no tensor, array or list of such"
    hint = "give the site's value for all chains, or a row of values: one for each chain"
    try:
        x = as_data(name, value)
    except DataError as error:
        raise DataError(located(what, site=name, hint=hint)) from error
    if x.is_complex() or x.dtype == torch.bool:
        raise DataError(located(what, site=name, hint=hint))
    return x


def _of_chains(name: str, value: Any, shape: torch.Size, chains: int) -> Tensor:
    """A value for each chain, [chains, *shape]."""
    x = _real(name, value)
    if x.shape not in (shape, (chains, *shape)):
        what = f"init: a value of shape {list(x.shape)}"
        hint = f"give one of shape {list(shape)}, or {[chains, *shape]}: one for each chain"
        raise DataError(located(what, site=name, hint=hint))
    return x.expand(chains, *shape)


def starts_by_climbs(
    density: LogDensity, potential: Potential, starts: Tensor, to: Climbing
) -> tuple[Tensor, tuple[str, ...]]:
    """Where a climb from each of ``starts`` [chains, d] leads, and what is to be said of them.

    A chain whose climb comes to no peak, or to no normal law with a draw that it can start at,
    stays at its start, which is said.

    Args:
        to: "map", the peak; "laplace", a draw of the normal law there; "pathfinder", a draw of the
            best normal law on the path.
    """
    if starts.shape[-1] == 0:
        return starts, ()
    any_number = potential.lanes is not None
    target = Target(potential, starts, None if any_number else len(starts))
    found, notes = [], list[str]()
    for i, start in enumerate(starts.to("cpu", torch.float64)):
        by_path = to == "pathfinder"
        led = _by_path(density, target, start) if by_path else _by_peak(density, target, start, to)
        if not isinstance(led, str):
            value, gradient = target(led)
            usable = torch.nonzero(value.isfinite() & gradient.isfinite().all(-1)).flatten()
            why = "its normal law has no draw of finite log density"
            led = led[usable[0]] if len(usable) else why
        if isinstance(led, str):
            by = "a path" if by_path else "a peak"
            notes.append(f"chain {i} started at random, and not by {by}: {led}")
        found.append(start if isinstance(led, str) else led)
    return target.given(torch.stack(found)), tuple(notes)


def _by_path(density: LogDensity, target: Target, start: Tensor) -> Tensor | str:
    """Draws [n, d] of the best normal law on a path of Pathfinder, or why there are none."""
    path = pathfinder(target, start)
    if path.normal is None:
        return path.reason(density.layout)
    return target.rounded(path.normal.points(_noise(path.normal.mean)))


def _by_peak(density: LogDensity, target: Target, start: Tensor, to: Climbing) -> Tensor | str:
    """The peak above a start, or draws [n, d] of the normal law there; or why there are none."""
    peak = climbed(density, density.layout, target, start).peak
    if isinstance(peak, str):
        return peak
    if to == "map":
        return peak.mode[None]
    return target.rounded(peak.mode + _noise(peak.mode) @ peak.root.mT)


def _noise(like: Tensor) -> Tensor:
    """Standard normal vectors [n, d]."""
    return draw(dist.Normal(torch.zeros_like(like), 1.0), (TRIES,), label="path")
