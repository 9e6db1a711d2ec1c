"""Which guides fit which models: names, spaces and shapes, in the direction of an objective."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Literal, NamedTuple, get_args

import torch

from ..errors import UnsupportedDistributionError
from .inclusion import included
from .spaces import Space
from .traces import Site, TraceType

# exclusive, KL(q || p): the guide q stays inside the support of the model p, as the ELBO needs;
# inclusive, KL(p || q): the guide covers it, as importance sampling needs; both: equal supports.
Direction = Literal["exclusive", "inclusive", "both"]

OBSERVING = "a guide only proposes: leave observations and factors to the model"


class Difference(NamedTuple):
    """One thing that keeps a guide from fitting: what, the site at fault, and what to do."""

    what: str
    site: Site
    hint: str
    meant: str = ""

    @property
    def text(self) -> str:
        """What is wrong and where."""
        return f"{self.what}{f' ({self.site.line})' if self.site.line else ''}{self.meant}"


def compatible(
    guide: TraceType,
    model: TraceType,
    direction: Direction = "both",
    *,
    partial: bool = False,
) -> list[str]:
    """What keeps a guide from fitting a model, one message for each fault; empty if nothing does.

    Every latent of the model must be proposed, under its name, with its shape, continuous for
    continuous.  Observations in the guide are refused, and so are choices that the model does not
    make, unless they are marked ``infer={"is_auxiliary": True}``.  A ``Delta`` fits in the
    exclusive direction only (a point estimate), unless it is computed from auxiliary choices, as in
    Pyro's autoguides; then only its value at one such choice is checked.  Supports whose bounds are
    random fit if they are written alike.

    Args:
        guide: the type of the guide's trace.
        model: the type of the model's trace.
        direction: "exclusive" wants the guide's support inside the model's (the ELBO), "inclusive"
            the model's inside the guide's (importance sampling), "both" wants them equal.
        partial: whether latents of the model may be left out.

    Errors:
        ValueError: there is no such direction.
    """
    if direction not in get_args(Direction):
        raise ValueError(f"the direction is one of {', '.join(get_args(Direction))}")
    found = [*_observations(guide), *_differences(guide, model, direction, partial)]
    return [f"{difference.text}. {difference.hint}" for difference in found]


def _observations(guide: TraceType) -> Iterator[Difference]:
    for name, site in guide.sites.items():
        if site.observed:
            yield Difference(f"the guide observes '{name}'", site, OBSERVING)


def _differences(
    guide: TraceType, model: TraceType, direction: Direction, partial: bool
) -> Iterator[Difference]:
    ours, theirs = guide.latents, model.latents
    missing = {} if partial else {n: s for n, s in theirs.items() if n not in ours}
    for name, site in missing.items():
        what = f"the guide does not propose '{name}', which the model samples as {site.space}"
        yield Difference(what, site, f"propose it in the guide, on {site.space}")
    for name, site in ours.items():
        if name in theirs:
            yield from _at(name, site, theirs[name], direction)
        elif not site.auxiliary:
            yield _extra(name, site, model, theirs.keys() - ours.keys())


def _extra(name: str, site: Site, model: TraceType, free: set[str]) -> Difference:
    verb = "observes" if name in model.sites else "does not sample"
    what = f"the guide proposes '{name}', which the model {verb}"
    scoped = [other for other in sorted(free) if other.endswith(f"/{name}")]
    close = scoped or difflib.get_close_matches(name, sorted(free), 1)
    meant = f"; did you mean '{close[0]}'?" if close else ""
    if scoped:
        hint = f"propose it within scope('{scoped[0].removesuffix(f'/{name}')}')"
    elif close:
        hint = "rename the site of the guide"
    elif name in model.sites:
        hint = "leave it out of the guide"
    else:
        hint = "leave it out, or mark it infer={'is_auxiliary': True}"
    return Difference(what, site, hint, meant)


def _at(name: str, ours: Site, theirs: Site, direction: Direction) -> Iterator[Difference]:
    """The differences at a site that both have."""
    start, where = f"at '{name}' the guide proposes", "where the model wants"
    proposed, wanted = ours.space, theirs.space
    if ours.law != "density":
        yield from _point(start, where, ours, theirs, direction)
    elif theirs.law != "density":
        what = f"{start} {proposed.name} where the model puts a single value"
        yield Difference(what, ours, "leave the site out of both, or propose a Delta")
    elif hint := _misfit(proposed, wanted, direction):
        yield Difference(f"{start} {proposed.name} {where} {wanted.name}", ours, hint)
    if proposed.shape != wanted.shape:
        what = f"{start} shape {list(proposed.shape)} {where} {list(wanted.shape)}"
        hint = "give the parameters that shape, or put the site in the same plates"
        yield Difference(what, ours, hint)


def _point(
    start: str, where: str, ours: Site, theirs: Site, direction: Direction
) -> Iterator[Difference]:
    wanted = theirs.space
    if not wanted.smooth:
        what = f"{start} a Delta {where} {wanted.name}"
        yield Difference(what, ours, f"propose a distribution on {wanted.name}")
    elif ours.law == "point" and theirs.law == "density" and direction != "exclusive":
        what = f"{start} a single value {where} {wanted.name}"
        yield Difference(
            what, ours, "a point estimate fits only the exclusive direction (the ELBO)"
        )
    elif ours.value is not None and ours.value.shape == wanted.shape:
        try:
            inside = torch.as_tensor(wanted.contains(ours.value))
        except UnsupportedDistributionError:  # the space depends on another choice
            return
        if not bool(inside.all()):
            what = f"{start} a value outside {wanted.name}"
            hint = f"map the value into {wanted.name}, for example with a constrained parameter"
            yield Difference(what, ours, hint)


def _misfit(proposed: Space, wanted: Space, direction: Direction) -> str:
    """The hint, if the supports do not fit in this direction."""
    if proposed.name == wanted.name:
        return ""
    if "Unknown" not in (proposed.kind, wanted.kind) and proposed.smooth != wanted.smooth:
        nature = "continuous" if wanted.smooth else "discrete"
        return f"the site is {nature}: propose on {wanted.name}"
    inside = True if direction == "inclusive" else included(proposed, wanted)
    covers = True if direction == "exclusive" else included(wanted, proposed)
    if inside is False:
        return f"the guide must stay inside the model's support: propose on {wanted.name}"
    if covers is False:
        return f"the guide would never propose some values of {wanted.name}: cover all of them"
    if inside is None or covers is None:
        return "whether one lies in the other depends on a random value: write the supports alike"
    return ""
