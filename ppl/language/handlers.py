"""Handlers of the language: each consumes a message, relabels it, or lets it pass outward.

A handler may consume a choice only by replacing it with a recorded value; a score it may turn into
its own state.  A consumed message keeps travelling as ``absorbed``, so that the scale, mask and
plates of every enclosing handler still reach it.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import pyro.poutine as poutine
import torch
from pyro.distributions import Delta
from pyro.poutine.broadcast_messenger import BroadcastMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor

from ..distributions.data import fitted
from ..distributions.masks import core
from ..distributions.validate import check_data
from ..errors import DataError, UnsupportedHandlerError, located
from .coverage import Entry, Met
from .effects import (
    Message,
    is_deterministic,
    is_draw,
    is_latent,
    is_subsample,
    scaled_log_prob,
    stack,
)


class Handler(Messenger):  # type: ignore[misc]
    """A handler whose state is an explicit value, so that an evaluator may merge below it.

    ``lane_wise``: it treats a message of one lane as it would treat that lane of a batched message;
    one that records values by name, or gives them, does not.
    ``ignores_draws``: anonymous draws, and loops and lanes of them, pass it without a trace.
    ``spans_scans``: what it remembers of a scan is nothing, or is among the scan's outputs.
    """

    lane_wise = True
    ignores_draws = False
    spans_scans = False

    def state(self) -> Any:
        return ()

    def restore(self, state: Any) -> None:
        del state

    def give(self, msg: Message, value: Tensor) -> None:
        """Replace a choice by a recorded value, which scores nothing."""
        msg["infer"]["latent"] = is_latent(msg)
        msg["value"], msg["is_observed"], msg["done"] = value, True, True
        msg["type"], msg["infer"]["absorber"] = "absorbed", self

    def mark(self, msg: Message, what: str) -> None:
        """Note what this handler has to do with a message, for when it comes back."""
        msg["infer"] = {**(msg["infer"] or {}), ("mark", id(self)): what}

    def marked(self, msg: Message) -> str:
        """What was noted; empty if nothing was."""
        found: str = (msg["infer"] or {}).get(("mark", id(self)), "")
        return found


class Sealed(Messenger):  # type: ignore[misc]
    """Lets no message out and no plate in: what runs inside is a function, and no effect."""

    def __enter__(self) -> Any:
        self.plates, _DIM_ALLOCATOR._stack = _DIM_ALLOCATOR._stack, []
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        _DIM_ALLOCATOR._stack = self.plates
        return super().__exit__(*error)

    def _process_message(self, msg: Message) -> None:
        msg["stop"] = msg["type"] != "normalize"  # a question, whose answer changes nothing


class Step(Messenger):  # type: ignore[misc]
    """Marks the sites of one step of a loop: ``z`` becomes ``z[t]``.

    A step that is traced for all t knows t as a tensor; its sites have no names of their own.

    ``entry``: what its sites meet of data that are stacked.
    """

    def __init__(self, t: int | Tensor, entry: Entry) -> None:
        super().__init__()
        self.t, self.entry = t, entry

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or is_draw(msg):
            return
        inner = msg["infer"].get("traced_step")
        base, index = inner or split_name(msg["name"])
        steps = (self.entry, *msg["infer"].get("steps", ()))
        msg["infer"] = {**msg["infer"], "steps": steps}
        index = (self.t, *index)
        if inner or isinstance(self.t, Tensor):
            msg["infer"]["traced_step"] = base, index
        msg["name"] = base + "".join(_index_name(i) for i in index)


def _index_name(t: int | Tensor) -> str:
    return EVERY if isinstance(t, Tensor) else f"[{t}]"


EVERY = "[*]"  # the index in a name of a step that is traced for all


def at_step(x: Tensor, t: int | Tensor) -> Tensor:
    """The entry of step t, which may be known to the machine only."""
    if isinstance(t, Tensor):
        return x.index_select(0, t.reshape(1).to(x.device)).squeeze(0)
    return x[t]


def split_name(name: str) -> tuple[str, tuple[int, ...]]:
    """``z[3][1]`` -> ``("z", (3, 1))``."""
    match = re.fullmatch(r"(.*?)((?:\[\d+\])*)", name)
    assert match is not None
    return match[1], tuple(int(i) for i in re.findall(r"\[(\d+)\]", match[2]))


class Lane(Messenger):  # type: ignore[misc]
    """Marks the sites of one lane that is run on its own, for handlers that hold data for all."""

    def __init__(self, i: int) -> None:
        super().__init__()
        self.i = i

    def _process_message(self, msg: Message) -> None:
        msg["infer"]["lanes_index"] = (self.i, *msg["infer"].get("lanes_index", ()))


class Taken(Messenger):  # type: ignore[misc]
    """Masks the observations and factors of a branch that is not taken.

    So it does with latents that become observations further out.  Others keep their prior there,
    unless a handler has ``masks_latents``: then they score nothing.
    """

    def __init__(self, pred: Tensor) -> None:
        super().__init__()
        self.pred = pred

    def _process_message(self, msg: Message) -> None:
        if msg["type"] not in ("sample", "absorbed"):
            return
        if msg["is_observed"]:
            msg["mask"] = self.pred if msg["mask"] is None else self.pred & msg["mask"]
        elif is_latent(msg):
            inner = msg["infer"].get("taken")
            msg["infer"]["taken"] = self.pred if inner is None else self.pred & inner
            msg["infer"]["only_taken"] = _mask_latents()


def _mask_latents() -> bool:
    return any(getattr(handler, "masks_latents", False) for handler in stack())


class Weighing(Handler):
    """Absorbs the scores inside it, and of the latents that are given, into a log weight."""

    ignores_draws = True

    def __init__(self, given: dict[str, Tensor] | None = None) -> None:
        super().__init__()
        self.given = given or {}
        self.lane_wise = not self.given

    def __enter__(self) -> Any:
        self.log_weight: Tensor | float = 0.0
        self.used: frozenset[str] = frozenset()
        return super().__enter__()

    def state(self) -> Any:
        return self.log_weight, sorted(self.used)

    def restore(self, state: Any) -> None:
        self.log_weight, self.used = state[0], frozenset(state[1])

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or is_subsample(msg):
            return
        if is_latent(msg) and msg["name"] in self.given:
            check_data(msg["name"], msg["fn"], self.given[msg["name"]])
            self.used |= {msg["name"]}
            msg["value"], msg["is_observed"] = self.given[msg["name"]], True
            msg["infer"]["latent"] = True
        if msg["is_observed"]:
            msg["type"], msg["infer"]["absorber"] = "absorbed", self
        elif is_latent(msg):
            msg["infer"]["weighed"] = (*msg["infer"].get("weighed", ()), self)

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "absorbed" and msg["infer"]["absorber"] is self:
            if not is_deterministic(msg):
                self.log_weight = self.log_weight + scaled_log_prob(plated(msg))
        elif self in msg["infer"].get("weighed", ()):
            self.log_weight = self.log_weight + weight_of_draw(msg)


class Proposing(Handler):
    """Records the latents inside it with their log density; they pass outward as they are.

    ``log_auxiliary`` is the part of those that are marked auxiliary.  They are the noise of choices
    that are made of them (``has_points``), whose density theirs is then, or else only in between.
    """

    ignores_draws = True
    lane_wise = False

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.log_density: Tensor | float = 0.0
        self.log_auxiliary: Tensor | float = 0.0
        self.has_points = False
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.choices), self.log_density, self.log_auxiliary, self.has_points

    def restore(self, state: Any) -> None:
        self.choices, self.log_density = dict(state[0]), state[1]
        self.log_auxiliary, self.has_points = state[2], state[3]

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg):
            msg["infer"]["proposer"] = self

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and msg["infer"].get("proposer") is self:
            self.choices[msg["name"]] = msg["value"]
            log_prob = scaled_log_prob(msg)
            self.log_density = self.log_density + log_prob
            if msg["infer"].get("is_auxiliary"):
                self.log_auxiliary = self.log_auxiliary + log_prob
            self.has_points |= isinstance(core(msg["fn"]), Delta)


def require_meaning(interpretation: Messenger) -> None:
    """Raise if one of Pyro's inference handlers stands between a site and an interpretation.

    They hide choices, or give them values, for an algorithm: a part of a program has no such
    meaning that all interpretations could share.
    """
    handlers = stack()
    for handler in handlers[handlers.index(interpretation) + 1 :]:
        if isinstance(handler, _OF_INFERENCE):
            name = type(handler).__name__.removesuffix("Messenger").lower()
            raise UnsupportedHandlerError(
                located(
                    f"poutine.{name} stands within the program, where it has no meaning",
                    hint="use condition, do, mask or untraced, or put it around the inference",
                )
            )


_OF_INFERENCE = (
    *(poutine.block_messenger.BlockMessenger, poutine.replay_messenger.ReplayMessenger),
    *(poutine.lift_messenger.LiftMessenger, poutine.trace_messenger.TraceMessenger),
    *(poutine.collapse_messenger.CollapseMessenger, poutine.enum_messenger.EnumMessenger),
    *(poutine.escape_messenger.EscapeMessenger, poutine.uncondition_messenger.UnconditionMessenger),
)


class Sampling(Handler):
    """Within, choices have the laws that they are drawn by, whatever scales or masks their scores.

    So a program proposes: what it draws is weighed by the density that it was drawn with.
    """

    ignores_draws = True
    spans_scans = True

    def _process_message(self, msg: Message) -> None:
        if is_latent(msg):
            msg["scale"], msg["mask"] = 1.0, None


def plated(msg: Message) -> Message:
    """An absorbed message with its distribution broadcast to the plates it stands in."""
    expanded = {**msg, "type": "sample", "done": False}
    BroadcastMessenger._pyro_sample(expanded)  # type: ignore[arg-type]
    return expanded


def weight_of_draw(msg: Message) -> Tensor | float:
    """The log of the density that a drawn latent stands for, over that of what drew it.

    It was drawn by its own density p, and stands for p ** scale; a point is drawn whatever its own
    log density is.
    """
    if isinstance(core(msg["fn"]), Delta):
        return scaled_log_prob(msg)
    if is_one(msg["scale"]):
        return 0.0
    return scaled_log_prob(msg) - scaled_log_prob({**msg, "scale": 1.0})


def is_one(scale: Any) -> bool:
    """Whether a scale is the plain number one (a tensor scale is never assumed to be)."""
    return not isinstance(scale, Tensor) and scale == 1


class Untracing(Handler):
    """Turns named latents into anonymous draws, all but those to ``keep``."""

    ignores_draws = True
    spans_scans = True

    def __init__(self, keep: frozenset[str] = frozenset()) -> None:
        super().__init__()
        self.keep = keep

    def __enter__(self) -> Any:
        self.met: frozenset[str] = frozenset()
        return super().__enter__()

    def state(self) -> Any:
        return sorted(self.met)

    def restore(self, state: Any) -> None:
        self.met = frozenset(state)

    def _process_message(self, msg: Message) -> None:
        if not is_latent(msg):
            return
        if msg["name"] in self.keep:
            self.met |= {msg["name"]}
        else:
            msg["infer"]["draw"] = msg["infer"]["_do_not_trace"] = True


class Intervening(Handler):
    """Sets sites from outside: they take the value and are neither drawn nor scored."""

    spans_scans = True

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def __enter__(self) -> Any:
        self.used: frozenset[str] = frozenset()
        self.met = Met("do", {name: tuple(value.shape) for name, value in self.values.items()})
        return super().__enter__()

    def state(self) -> Any:
        return sorted(self.used)

    def restore(self, state: Any) -> None:
        self.used = frozenset(state)

    def _process_message(self, msg: Message) -> None:
        found = _given(self.values, msg)
        if found is None:
            return
        name, value, entries = found
        self.met.note(name, entries)
        value = fitted(value, msg["fn"], exact=False)
        check_data(msg["name"], msg["fn"], value)
        self.used |= {name}
        shape = msg["fn"].batch_shape + msg["fn"].event_shape
        if torch.broadcast_shapes(value.shape, shape) != shape:
            what = f"a value of shape {list(value.shape)} is set where {list(shape)} is sampled"
            raise DataError(located(what, site=msg["name"], hint="give one value for the site"))
        msg["type"], msg["infer"]["absorber"] = "absorbed", self
        msg["value"], msg["done"] = value.expand(shape), True

    def require_all_used(self, program: str) -> None:
        """Raise if a value names no site of the run, or goes on beyond a loop."""
        if missing := sorted(self.values.keys() - self.used):
            raise DataError(
                located(
                    f"do sets {', '.join(map(repr, missing))}, which {program} does not sample",
                    hint="check the spelling",
                )
            )
        self.met.require_none(self.met.beyond())


class Conditioning(Handler):
    """Turns the latents that data name into observations, and tells what it met of the data.

    gaps: the data whose NaN were not seen.
    """

    spans_scans = True

    def __init__(
        self, data: dict[str, Tensor], exact: set[str], program: str, gaps: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.data, self.exact, self.program, self.gaps = data, exact, program, gaps

    def __enter__(self) -> Any:
        outside = stack()
        listening = [h.coverage for h in outside if hasattr(h, "coverage")]
        place = _place(outside)
        self.met = [each.of(place, self.program, self.data) for each in listening]
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        if error[0] is not None:
            for met in self.met:
                met.left = True
        return super().__exit__(*error)

    def _process_message(self, msg: Message) -> None:
        found = _given(self.data, msg)
        if found is None:
            return
        name, value, entries = found
        for met in self.met:
            met.note(name, entries)
        if msg["is_observed"]:
            raise DataError(
                located(
                    "data for a site that the program already observes",
                    site=msg["name"],
                    hint="remove one of the two observations",
                )
            )
        value = fitted(value, msg["fn"], exact=name in self.exact)
        if name in self.gaps:
            seen = ~value.isnan()
            for _ in msg["fn"].event_shape:
                seen = seen.all(-1)
            msg["mask"] = seen if msg["mask"] is None else msg["mask"] & seen
        check_data(msg["name"], msg["fn"], value, msg["mask"])
        msg["value"], msg["is_observed"] = value, True


def _place(handlers: list[Messenger]) -> tuple[str, ...]:
    """What tells a part of a program from others: the scopes that it is in, up to an algorithm.

    The steps of a loop are one place, and so are lanes: what some of them meet is met.
    """
    place: list[str] = []
    for handler in reversed(handlers):
        if isinstance(handler, Untracing) and not handler.keep:
            break
        if isinstance(handler, Scoping):
            place.append(handler.prefix)
    return tuple(place)


def _given(data: dict[str, Tensor], msg: Message) -> tuple[str, Tensor, tuple[Entry, ...]] | None:
    """The data for a site, their name and which entries they are.

    The name is that of the site, or the one without the loops' steps.
    The steps of the loops are the leading axes of data that are stacked, then come the lanes.
    """
    if msg["type"] != "sample" or is_draw(msg) or msg["name"] is None:
        return None
    name, steps = msg["name"], tuple[int | Tensor, ...]()
    if "traced_step" in msg["infer"]:
        name, steps = msg["infer"]["traced_step"]
        if any(split_name(given)[0] == name for given in data.keys() - {name}):
            what = "data for single steps of a loop cannot be met in a step traced for all"
            raise DataError(located(what, site=name, hint="stack them, or do not compile"))
        if name not in data:
            return None
    elif name not in data:
        name, steps = split_name(name)
        if name not in data or not steps:
            return None
    lanes = msg["infer"].get("lanes_index", ())
    index = (*steps, *lanes)
    value = data[name]
    for i in index:
        if isinstance(i, Tensor):
            value = at_step(value, i)
            continue
        if value.ndim == 0 or i >= len(value):
            shape = list(data[name].shape)
            what = f"the data for '{name}' have shape {shape} and no entry {list(index)}"
            hint = "give one entry for each step of the loop, and then for each lane"
            raise DataError(located(what, site=name, hint=hint))
        value = value[i]
    return name, value, (*msg["infer"].get("steps", ())[: len(steps)], *map(Entry, lanes))


class Scoping(Handler):
    """Prefixes the names of the sites inside it."""

    spans_scans = True

    def __init__(self, prefix: str) -> None:
        super().__init__()
        self.prefix = prefix

    def _process_message(self, msg: Message) -> None:
        if msg["type"] in ("sample", "param") and not is_draw(msg) and msg["name"] is not None:
            msg["name"] = f"{self.prefix}/{msg['name']}"
            if "traced_step" in (msg["infer"] or {}):
                base, index = msg["infer"]["traced_step"]
                msg["infer"]["traced_step"] = f"{self.prefix}/{base}", index
