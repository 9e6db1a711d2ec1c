"""The recorder: one run of a program, what it chose and what that scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..distributions.densities import log_density
from ..distributions.masks import is_image
from ..distributions.validate import check_data, check_shape, check_values
from ..errors import DuplicateNameError, NoDensityError, located
from ..language.coverage import Coverage
from ..language.effects import (
    Message,
    is_deterministic,
    is_draw,
    is_subsample,
    law_of,
    masked_log_prob,
    scaled_log_prob,
    scored_value,
)
from ..language.handlers import split_name, weight_of_draw

SUMS = ("log_density", "log_weight", "log_latents")


@dataclass(frozen=True)
class Trace:
    """One run of a program.

    ``choices``: the latents by name; ``observed`` and ``derived``: observations and deterministic
    sites; ``log_density``: of everything that was chosen and observed; ``value``: the result.
    """

    choices: dict[str, Tensor]
    observed: dict[str, Tensor]
    derived: dict[str, Tensor]
    log_density: Tensor
    value: Any
    log_probs: dict[str, Tensor] = field(default_factory=dict, repr=False)


class Recorder(Messenger):  # type: ignore[misc]
    """Runs a program with some of its latents given, and records it.

    ``log_density`` sums every scored site, ``log_weight`` those that were given or observed;
    ``decomposes``: whether the run needs decompositions of matrices.
    """

    def __init__(
        self, given: Mapping[str, Tensor], *, density: bool, validate: bool = True
    ) -> None:
        super().__init__()
        self.given: Mapping[str, Tensor] = given
        self.density, self.validate = density, validate

    def __enter__(self) -> Recorder:
        self.sites: dict[str, str] = {}
        self.values: dict[str, Tensor] = {}
        self.log_probs: dict[str, Tensor] = {}
        self.dims: dict[str, list[str]] = {}
        self.log_density: Tensor | float = 0.0
        self.log_weight: Tensor | float = 0.0
        self.log_latents: Tensor | float = 0.0
        self.decomposes = False
        self.coverage = Coverage()
        super().__enter__()
        return self

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample":
            return
        if is_draw(msg) and self.density:
            raise NoDensityError(
                located(
                    "a program with anonymous randomness (draw) has no exact density",
                    hint="name the choice with sample(...) if it is part of the model",
                )
            )
        if is_subsample(msg) and self.density and msg["value"] is None:
            _require_whole(msg)
        if is_draw(msg) or is_subsample(msg):
            return
        name = msg["name"]
        # handlers outside may relabel the message before it comes back
        msg["infer"].setdefault("recorded", {})[id(self)] = name
        if name in self.sites:
            raise DuplicateNameError(
                located(
                    "the name is used twice on one path", site=name, hint="rename one of the sites"
                )
            )
        self.sites[name] = kind = kind_of(msg)
        if kind == "observed" and self.validate:
            check_shape(name, msg["fn"], msg["value"])
            check_values(name, msg["fn"], msg["value"], mask=msg["mask"])
        elif kind == "latent" and name in self.given:
            if self.validate:
                check_data(name, msg["fn"], self.given[name])
            msg["value"] = self.given[name]
            msg["infer"]["given"] = True

    def _postprocess_message(self, msg: Message) -> None:
        name = msg["infer"].get("recorded", {}).get(id(self)) if msg["infer"] else None
        if name is None:
            return
        self.values[name] = msg["value"]
        self.dims[name] = dimensions(msg)
        if self.sites[name] == "derived" and is_deterministic(msg):
            return
        log_prob = self.log_prob(msg)
        self.log_probs[name] = masked_log_prob(msg, log_prob)
        total = scaled_log_prob(msg, log_prob)
        self.log_density = self.log_density + total
        if self.sites[name] == "latent":
            self.log_latents = self.log_latents + total
        if self.sites[name] != "latent" or msg["infer"].get("given"):
            self.log_weight = self.log_weight + total
        else:
            self.log_weight = self.log_weight + weight_of_draw(msg)

    def log_prob(self, msg: Message) -> Tensor:
        """The log densities [*batch] of a site."""
        placed = not self.validate and bool(msg["infer"].get("given"))  # by a layout
        return log_density(law_of(msg), scored_value(msg), inside=placed)

    @contextmanager
    def apart(self, given: Mapping[str, Tensor]) -> Iterator[Callable[[], dict[str, Any]]]:
        """Within, a part of the run is recorded by itself, with these values, and then forgotten.

        The function tells what it scored.
        """
        before = dict(vars(self))
        self.given = given
        self.sites, self.values, self.log_probs, self.dims = {}, {}, {}, {}
        self.log_density = self.log_weight = self.log_latents = 0.0
        try:
            yield lambda: {name: getattr(self, name) for name in SUMS}
        finally:
            vars(self).update(before)

    def add(self, name: str, scored: Tensor) -> None:
        """Add what a part scored to one of the sums."""
        setattr(self, name, getattr(self, name) + scored)

    def of(self, kind: str) -> dict[str, Tensor]:
        return {name: self.values[name] for name, k in self.sites.items() if k == kind}

    @property
    def pointwise(self) -> dict[str, Tensor]:
        """The log densities [*batch] of data that may be left out one by one.

        Those of observations, and of factors that have entries or stand in the step of a loop, as
        of censored data.
        """
        return {name: x for name, x in self.log_probs.items() if self._is_of_data(name)}

    @property
    def factors(self) -> tuple[str, ...]:
        """The other factors: priors, or data as a whole; nothing tells which."""
        whole = (n for n, kind in self.sites.items() if kind == "auxiliary")
        return tuple(name for name in whole if not self._is_of_data(name))

    def _is_of_data(self, name: str) -> bool:
        kind, x = self.sites[name], self.log_probs.get(name)
        in_step = bool(split_name(name)[1])
        return kind == "observed" or (
            kind == "auxiliary" and x is not None and (x.ndim > 0 or in_step)
        )

    def trace(self, value: Any) -> Trace:
        return Trace(
            choices=self.of("latent"),
            observed=self.of("observed"),
            derived=self.of("derived"),
            log_density=torch.as_tensor(self.log_density),
            value=value,
            log_probs={n: lp for n, lp in self.log_probs.items() if self.sites[n] == "observed"},
        )


def kind_of(msg: Message) -> str:
    """What a trace says of a named site: that it is latent, observed, auxiliary or derived."""
    if is_deterministic(msg) or (msg["is_observed"] and is_image(msg["fn"], msg["value"])):
        return "derived"
    if msg["is_observed"]:
        return "auxiliary" if msg["infer"].get("is_auxiliary") else "observed"
    return "latent"


def _require_whole(msg: Message) -> None:
    """Raise if a plate draws its subsample, which would make a density random."""
    size = getattr(msg["fn"], "subsample_size", None)
    if size is not None and size < msg["fn"].size:
        raise NoDensityError(
            located(
                f"the plate draws {size} of {msg['fn'].size} indices, so the density is random",
                site=msg["name"],
                hint="give the indices as subsample=..., or use all the data",
            )
        )


def dimensions(msg: Message) -> list[str]:
    """The plate of each dimension of a site's value, "" where it has none."""
    value, event = msg["value"], len(getattr(msg["fn"], "event_shape", ()))
    if not isinstance(value, Tensor):
        return []
    if is_deterministic(msg) and event == value.ndim:
        event = 0  # Pyro takes the whole of a derived value for its event
    names = [""] * value.ndim
    for frame in msg["cond_indep_stack"]:
        at = value.ndim - event + (frame.dim or 0)
        if frame.dim is not None and at >= 0 and value.shape[at] == frame.size:
            names[at] = frame.name
    return names
