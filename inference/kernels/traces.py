"""Traced runs: a program run with some of its choices given, and the density of all that it did."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.errors import InitializationError, ProgramError, located
from ...ppl.language.effects import (
    Message,
    is_deterministic,
    is_draw,
    is_latent,
    is_subsample,
    masked_log_prob,
    scaled_log_prob,
)
from ...ppl.language.handlers import Handler, Untracing, is_one, plated
from ...ppl.language.program import Callback, Program, program_name
from ...ppl.tensors.keys import Unkeyed
from ...ppl.types import space_of


class Point(NamedTuple):
    """What determines a run of a program: its choices by name, and its anonymous draws in order.

    ``draws`` is None where they are not kept: the run cannot be retraced then, but gone on from.
    """

    choices: dict[str, Tensor]
    draws: tuple[Tensor, ...] | None = ()


class Traced(NamedTuple):
    """A run of a program: its choices by name in the order of the run, and their laws.

    Meaning: one point of the trace measure, whose density is ``exp(log_density)``; as to anonymous
    draws, with respect to their law.

    ``log_probs``: the log density of each choice; ``log_score``: of all observations and factors.
    ``drawn``: names of the choices that were drawn, not given; ``derived``: deterministic sites.
    ``scores``: the log densities of each observation and factor, [*batch] by name.
    """

    choices: dict[str, Tensor]
    laws: dict[str, Any]
    log_probs: dict[str, Tensor]
    log_score: Tensor
    value: Any
    drawn: frozenset[str] = frozenset()
    draws: tuple[Tensor, ...] | None = ()
    derived: dict[str, Tensor] = {}
    scores: dict[str, Tensor] = {}

    @property
    def point(self) -> Point:
        """The choices and draws."""
        return Point(self.choices, self.draws)

    @property
    def log_density(self) -> Tensor:
        """Of choices, observations and factors together."""
        return self.log_score + total(self.log_probs.values())


def total(log_probs: Iterable[Tensor]) -> Tensor:
    """The sum of log densities; 0 if there are none."""
    return sum((lp.sum() for lp in log_probs), torch.zeros((), dtype=torch.float64))


class Laws(dict[str, Any], Unkeyed):
    """The laws of choices, which follow from the choices: states need not tell them apart."""


class Scores(dict[str, Tensor], Unkeyed):
    """What single sites score, which follows from the choices too."""


class Tracing(Handler):
    """Gives choices to a run, lets it draw the others, and takes the density of everything.

    A choice is given only where its space is that of the run in which it was made, ``laws``: else
    the way back would not give it, and it is drawn anew.  Names without a law are always given; if
    one lies outside its support the run is ``impossible``.
    """

    lane_wise = False

    def __init__(
        self, given: dict[str, Tensor], laws: dict[str, Any], draws: tuple[Tensor, ...] | None
    ) -> None:
        super().__init__()
        self.given, self.laws_of, self.given_draws = given, laws, draws
        self.ignores_draws = draws is None

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.laws = Laws()
        self.log_probs: dict[str, Tensor] = {}
        self.log_score: Tensor | float = 0.0
        self.drawn: frozenset[str] = frozenset()
        self.draws: tuple[Tensor, ...] = ()
        self.impossible = False
        self.derived: dict[str, Tensor] = {}
        self.scores = Scores()
        return super().__enter__()

    def state(self) -> Any:
        kept = self.log_score, sorted(self.drawn), self.draws, self.impossible, dict(self.derived)
        of_sites = Laws(self.laws), dict(self.log_probs), Scores(self.scores)
        return dict(self.choices), of_sites, kept

    def restore(self, state: Any) -> None:
        laws, log_probs, scores = state[1]
        self.choices, self.laws, self.log_probs = dict(state[0]), Laws(laws), dict(log_probs)
        self.scores = Scores(scores)
        self.log_score, drawn, self.draws, self.impossible, derived = state[2]
        self.drawn, self.derived = frozenset(drawn), dict(derived)

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and not is_subsample(msg):
            if is_draw(msg) and self.given_draws is not None:
                self.mark(msg, "draw")
                if len(self.draws) < len(self.given_draws):
                    self.give(msg, self.given_draws[len(self.draws)])
            elif is_latent(msg):
                self._choose(msg)
            elif msg["is_observed"]:
                self.mark(msg, "derived" if is_deterministic(msg) else "score")
                msg["type"], msg["infer"]["absorber"] = "absorbed", self

    def _choose(self, msg: Message) -> None:
        name = msg["name"]
        if name in self.choices:
            raise ProgramError(
                located("the name is used twice", site=name, hint="rename one of the sites")
            )
        self.mark(msg, "choice")
        if name not in self.given or not self._same_space(name, msg["fn"]):
            self.drawn |= {name}
            return
        value = self.given[name]
        if bool(torch.as_tensor(space_of(msg["fn"]).contains(value)).all()):
            self.give(msg, value)
        else:
            self.impossible = True

    def _same_space(self, name: str, law: Any) -> bool:
        if name not in self.laws_of:
            return True
        return space_of(law) == space_of(self.laws_of[name])

    def _postprocess_message(self, msg: Message) -> None:
        if self.marked(msg) == "draw":
            self.draws = (*self.draws, msg["value"])
        elif self.marked(msg) == "choice":
            name = msg["name"]
            self.choices[name], self.laws[name] = msg["value"], msg["fn"]
            self.log_probs[name] = torch.as_tensor(scaled_log_prob(plated(msg)))
            if not is_one(msg["scale"]):
                what = "a latent in a subsampled or scaled plate has no law of its own to draw from"
                hint = "use all the data, or NUTS on the scaled density"
                raise ProgramError(located(what, site=name, hint=hint))
        elif self.marked(msg) == "derived":
            self.derived[msg["name"]] = msg["value"]
        elif self.marked(msg) == "score":
            scored = plated(msg)
            self.scores[msg["name"]] = masked = masked_log_prob(scored)
            self.log_score = self.log_score + scaled_log_prob(scored, masked)


def traced(
    p: Callback,
    given: dict[str, Tensor],
    laws: dict[str, Any],
    *args: Any,
    draws: tuple[Tensor, ...] | None = (),
) -> Traced | None:
    """Run ``p(*args)`` with choices given, see ``Tracing``, and the first of its anonymous draws.

    The others are drawn; with None no draws are kept.  None if a given choice lies outside its
    support.
    """
    with Untracing(), Tracing(given, laws, draws) as tracing:
        value = p(*args)
    if tracing.impossible:
        return None
    return Traced(
        tracing.choices,
        tracing.laws,
        tracing.log_probs,
        torch.as_tensor(tracing.log_score),
        value,
        tracing.drawn,
        None if draws is None else tracing.draws,
        tracing.derived,
        tracing.scores,
    )


def fresh(run: Traced) -> tuple[Tensor, ...] | None:
    """No draws to be given, but to be kept if those of this run were."""
    return None if run.draws is None else ()


def at(p: Callback, point: Point, *args: Any) -> Traced:
    """The run of ``p(*args)`` at a point, all of whose choices it must make.

    Errors:
        InitializationError: they are not those of a run, or have density zero.
    """
    choices = point.choices
    found = traced(p, choices, {}, *args, draws=point.draws)
    if found is None or float(found.log_density) == -math.inf:
        what = f"the density of {program_name(p)} is zero at the start"
        raise InitializationError(located(what, hint="start elsewhere, such as from the prior"))
    if found.choices.keys() != choices.keys():
        wrong = sorted(found.choices.keys() ^ choices.keys())
        raise InitializationError(located(f"the start and {program_name(p)} differ in {wrong}"))
    if math.isnan(float(found.log_density)) or float(found.log_density) == math.inf:
        raise InitializationError(located(f"the log density is {float(found.log_density)}"))
    return found._replace(drawn=frozenset())


def points_of(p: Callback) -> Program:
    """The program that returns the point of a run of p: its measure is the trace measure of p."""

    def run(*args: Any) -> Point:
        with Untracing(), _Recording() as recording:
            p(*args)
        return Point(dict(recording.choices), recording.draws)

    run.__name__ = run.__qualname__ = f"points_of({program_name(p)})"
    return Program(run)


class _Recording(Handler):
    """Notes the latents and draws that pass, in the order of the run."""

    lane_wise = False

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.draws: tuple[Tensor, ...] = ()
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.choices), self.draws

    def restore(self, state: Any) -> None:
        self.choices, self.draws = dict(state[0]), state[1]

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg):
            self.mark(msg, "choice")
        elif msg["type"] == "sample" and is_draw(msg):
            self.mark(msg, "draw")

    def _postprocess_message(self, msg: Message) -> None:
        if self.marked(msg) == "choice":
            self.choices[msg["name"]] = msg["value"]
        elif self.marked(msg) == "draw":
            self.draws = (*self.draws, msg["value"])
