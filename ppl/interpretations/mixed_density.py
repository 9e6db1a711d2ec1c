"""The log density of a program with finite latents, in vectors that hold them behind the others."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from ..errors import UnsupportedDistributionError, located
from ..language.program import Callback
from ..tensors.capture import Unread
from ..types import Site
from .abstract_run import abstract_run
from .log_density import LogDensity
from .recorder import Recorder


class MixedDensity:
    """The joint log density at vectors [d + m]: d unconstrained coordinates, then m finite values.

    Of the last m each is the number of a value among those of one event of a finite site, from 0:
    ``sizes`` says how many there are for each, which may differ among the events of a site.
    ``continuous`` is the density of the others at fixed values.

    Errors:
        UnsupportedDistributionError: a discrete latent is not finite; also those of ``LogDensity``.
    """

    def __init__(self, p: Callback, *args: Any, turning: bool = False) -> None:
        run, _ = abstract_run(p, *args)
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        discrete = {name: site for name, site in latents.items() if not site.space.smooth}
        for name, site in discrete.items():
            if not site.space.finite and not _differing(site):
                what = (
                    f"the latent is discrete ({site.space}), and has no known finite set of values"
                )
                hint = "write one with fixed bounds, or run single_site(), which takes it as it is"
                raise UnsupportedDistributionError(
                    located(what, site=name, line=site.line, hint=hint)
                )
        self._values = {name: _values(site) for name, site in discrete.items()}
        self._dtypes = {name: run.dtypes[name] for name in discrete}
        self._sites = discrete
        first = {name: self._site(name, _events(site)) for name, site in discrete.items()}
        self.continuous = LogDensity(p, *args, discrete=first, turning=turning)
        self.sizes = [size for site in discrete.values() for size in _sizes(site)]

    @property
    def size(self) -> int:
        """d, the number of unconstrained coordinates."""
        return self.continuous.layout.size

    def __call__(self, v: Tensor) -> Tensor:
        with Unread():
            return self.at(v)(v[: self.size])

    def at(self, v: Tensor) -> LogDensity:
        """The density of the continuous latents where the finite ones are those of v [d + m]."""
        found = copy.copy(self.continuous)
        found.discrete, start = {}, self.size
        for name, site in self._sites.items():
            events = _events(site)
            number = v[start : start + events.numel()].reshape(events.shape).to(torch.int64)
            found.discrete[name] = self._site(name, number)
            start += events.numel()
        return found

    def numbers(self, values: dict[str, Tensor]) -> Tensor:
        """The last m coordinates [m] for values of the finite sites by name."""
        parts = []
        for name, site in self._sites.items():
            table, value = self._values[name], values[name].to(torch.int64)
            if not _vectors(site):
                parts.append((value - table[0]).flatten())
                continue
            event = table.flatten(1)
            value = value.reshape(_events(site).numel(), event.shape[1])
            parts.append((value[:, None] == event).all(-1).long().argmax(1))
        return torch.cat(parts).to(self.continuous.layout.dtype)

    def results(self, v: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Latents, deterministic sites, and log densities of observations, at one vector."""
        found = self.at(v)
        with Unread():
            latents, derived, observed = found.results(v[: self.size])
        return {**latents, **found.discrete}, derived, observed

    def record(self, v: Tensor) -> Recorder:
        """One run of the program at a vector."""
        with Unread():
            return self.at(v).record(v[: self.size])

    def _site(self, name: str, number: Tensor) -> Tensor:
        """The value of a site whose events have these numbers."""
        table = self._values[name]
        if not _vectors(self._sites[name]):
            return (number + table[0]).to(self._dtypes[name])  # they are whole, without gaps
        return table.to(self._dtypes[name])[number]


def _vectors(site: Site) -> bool:
    """Whether the values of an event are vectors, and not whole numbers."""
    return site.space.shape != site.space.batch_shape


def _differing(site: Site) -> bool:
    """Whether the events of a site have known bounds, which differ."""
    return site.space.kind == "IntInterval" and None not in site.space.parameters


def _bounds(site: Site) -> Tensor:
    """The least and the greatest number of each event of a site, [2, *batch]."""
    known: Any = site.space.constraint
    ends = (torch.as_tensor(end) for end in (known.lower_bound, known.upper_bound))
    return torch.stack([end.long().expand(site.space.batch_shape) for end in ends])


def _values(site: Site) -> Tensor:
    """The values of one event [n, *event]; or the bounds [2, *batch], where they differ."""
    return site.space.enumerate() if site.space.finite else _bounds(site)


def _sizes(site: Site) -> list[int]:
    """How many values each event of a site has."""
    if site.space.finite:
        return [len(site.space.enumerate())] * _events(site).numel()
    low, high = _bounds(site)
    return [int(size) for size in (high - low + 1).flatten()]


def _events(site: Site) -> Tensor:
    """The number 0 for each event of a site, [*batch]."""
    return torch.zeros(site.space.batch_shape, dtype=torch.int64)
