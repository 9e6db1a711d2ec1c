"""Suspended runs: a program that stops at each of its scores, and goes on by replay.

Any program can be suspended, wherever it observes.  To go on, it is run again from the start with
its choices so far given and its scores so far passed over, up to the next score.  So one step costs
the length of the run; a program with a ``scan`` has a quicker way (see ``filter``).
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...ppl.language.effects import (
    Message,
    is_deterministic,
    is_draw,
    is_latent,
    is_subsample,
    scaled_log_prob,
)
from ...ppl.language.handlers import Handler, Untracing, plated, weight_of_draw
from ...ppl.language.program import Callback, Program, program_name
from .population import Apart, Population

# Effects that are run in place: leaving one that is denoted on its own would be seen by the first
# of its paths only.
_IN_PLACE = ("call", "loop", "fix")


ENDLESS = 1_000_000_000  # scores: the bound of loops that end when their runs do


class Suspended(NamedTuple):
    """A run up to a score: its choices and anonymous draws, and its result if it has ended.

    Meaning: the law of the choices, weighted by the scores so far.
    """

    choices: dict[str, Tensor]
    draws: tuple[Tensor, ...] = ()
    ended: bool = False
    value: Any = None


class _AtScore(BaseException):
    """Leaves the program at a score."""


class _Counting(Handler):
    """Counts the scores that pass, and leaves the program after the one numbered ``until``.

    What is scored within one ``vmap`` is one score.
    """

    lane_wise = False

    def __init__(self, until: int) -> None:
        super().__init__()
        self.until = until

    def __enter__(self) -> Any:
        self.met, self.lanes, self.scored = 0, 0, False
        return super().__enter__()

    def state(self) -> Any:
        return self.met, self.lanes, self.scored

    def restore(self, state: Any) -> None:
        self.met, self.lanes, self.scored = state

    def _process_message(self, msg: Message) -> None:
        if msg["type"] in _IN_PLACE:
            msg["stop"] = True
        elif msg["type"] == "vmap":
            self.lanes += 1
        elif msg["type"] == "sample" and msg["is_observed"] and not is_deterministic(msg):
            self.mark(msg, "score")

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "vmap":
            self.lanes -= 1
        elif self.marked(msg) == "score":
            self.scored = True
        if self.scored and not self.lanes:
            self.met, self.scored = self.met + 1, False
            if self.met >= self.until:
                raise _AtScore


class Advancing(_Counting):
    """Replays choices, passes over the first ``passed`` scores, and weighs and leaves at the next.

    What it is not given is drawn; all choices are recorded.
    """

    def __init__(self, run: Suspended, passed: int) -> None:
        super().__init__(passed + 1)
        self.given, self.given_draws, self.passed = run.choices, run.draws, passed

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.draws: tuple[Tensor, ...] = ()
        self.log_weight: Tensor | float = 0.0
        return super().__enter__()

    def state(self) -> Any:
        return super().state(), dict(self.choices), self.draws, self.log_weight

    def restore(self, state: Any) -> None:
        super().restore(state[0])
        self.choices, self.draws, self.log_weight = dict(state[1]), state[2], state[3]

    def _process_message(self, msg: Message) -> None:
        super()._process_message(msg)
        if msg["type"] != "sample" or is_subsample(msg):
            return
        if is_draw(msg):
            self.mark(msg, "draw")
            if len(self.draws) < len(self.given_draws):
                self.give(msg, self.given_draws[len(self.draws)])
        elif is_latent(msg):
            self.mark(msg, "choice")
            if msg["name"] in self.given:
                self.give(msg, self.given[msg["name"]])
        elif msg["is_observed"]:
            msg["type"], msg["infer"]["absorber"] = "absorbed", self

    def _postprocess_message(self, msg: Message) -> None:
        if self.marked(msg) == "draw":
            self.draws = (*self.draws, msg["value"])
        elif self.marked(msg) == "choice":
            self.choices[msg["name"]] = msg["value"]
            if msg["name"] not in self.given:
                self.log_weight = self.log_weight + weight_of_draw(msg)
        elif self.marked(msg) == "score" and self.met >= self.passed:
            self.log_weight = self.log_weight + scaled_log_prob(plated(msg))
        super()._postprocess_message(msg)


def advance(model: Callback, run: Suspended, scores: int, *args: Any) -> tuple[Suspended, Tensor]:
    """Go on with a run that has passed ``scores`` scores, up to the next one or to the end.

    Returns the run with the log weight of that score.  A run that has ended stays as it is.
    Invariant: the law of the new run, weighted, is the meaning of a run with one score more.
    """
    if run.ended:
        return run, torch.zeros(())
    ended, value = False, None
    with Untracing(), Advancing(run, scores) as advancing, suppress(_AtScore):
        ended, value = True, model(*args)
    after = Suspended(advancing.choices, advancing.draws, ended, value)
    return after, torch.as_tensor(advancing.log_weight)


def advance_each(
    model: Callback, population: Population, scores: int, *args: Any
) -> tuple[Population, bool]:
    """Particles that are suspended runs, each with one score more; and whether all have ended."""
    advanced = Program(lambda run: advance(model, run, scores, *args))
    pairs = [advanced(run) for run in population.values.each]
    log_weights = torch.stack([torch.as_tensor(w, dtype=torch.float64) for _, w in pairs])
    runs = tuple(run for run, _ in pairs)
    ended = all(run.ended for run in runs)
    return Population(Apart(runs), population.log_weights + log_weights), ended


def prefix(model: Callback, scores: int) -> Program:
    """The model up to this many scores, or to its end: returns whether it has ended, and its value.

    Its trace measure is the meaning of a run that was advanced so often.
    """

    def run(*args: Any) -> tuple[bool, Any]:
        with _Counting(scores):
            try:
                return True, model(*args)
            except _AtScore:
                return False, None

    run.__name__ = run.__qualname__ = f"prefix({program_name(model)}, {scores})"
    return Program(run)
