"""A program that returns what it chose: the latents by name, those of a loop stacked."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from torch import Tensor

from ...ppl.language.combinators import run_loop
from ...ppl.language.effects import Message, is_deterministic, is_latent
from ...ppl.language.handlers import Handler
from ...ppl.language.program import Callback, Program, program_name


class Recorded(NamedTuple):
    """What a run made: its latents and deterministic sites by name, and its result.

    Those of a ``scan`` are stacked over its steps under the name that they have in the step.
    """

    choices: dict[str, Tensor]
    derived: dict[str, Tensor]
    value: Any


def recorded(p: Callback) -> Program:
    """The program that returns ``Recorded`` runs of p; its measure on traces is that of p.

    Algorithms that suspend a program at its scan (``particle_filter``) record it too, since the
    choices of each step are among the outputs of the loop.
    """

    def run(*args: Any) -> Recorded:
        with Recording() as recording:
            value = p(*args)
        return Recorded(dict(recording.choices), dict(recording.derived), value)

    run.__name__ = run.__qualname__ = f"recorded({program_name(p)})"
    return Program(run)


class Recording(Handler):
    """Notes the latents and deterministic sites that pass; a scan brings those of its steps."""

    lane_wise = False
    spans_scans = True

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.derived: dict[str, Tensor] = {}
        self.in_scan = 0
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.choices), dict(self.derived), self.in_scan

    def restore(self, state: Any) -> None:
        self.choices, self.derived, self.in_scan = dict(state[0]), dict(state[1]), state[2]

    def _process_message(self, msg: Message) -> None:
        if self.in_scan:
            return
        if msg["type"] == "loop" and msg["infer"]["loop"].has_outputs:
            loop = msg["infer"]["loop"]
            self.in_scan += 1
            self.mark(msg, "scan")
            recording = replace(loop, step=_recording(loop.step))
            msg["infer"]["loop"] = recording
            msg["fn"] = partial(run_loop, recording)
        elif msg["type"] == "sample" and is_latent(msg):
            self.mark(msg, "choice " + msg["name"])  # the step around will add its number
        elif msg["type"] == "sample" and is_deterministic(msg):
            self.mark(msg, "derived " + msg["name"])

    def _postprocess_message(self, msg: Message) -> None:
        kind, _, name = self.marked(msg).partition(" ")
        if kind == "scan":
            self.in_scan -= 1
            carry, outputs = msg["value"]
            if outputs is None:  # of a scan without steps
                return
            ys, choices, derived = outputs
            msg["value"] = carry, ys
            self.choices.update(choices)
            self.derived.update(derived)
        elif kind == "choice":
            self.choices[name] = msg["value"]
        elif kind == "derived":
            self.derived[name] = msg["value"]


def _recording(step: Callback) -> Callback:
    """The step of a scan with its choices among its outputs."""

    def run(carry: Any, x: Any) -> Any:
        with Recording() as recording:
            result = step(carry, x)
        if not isinstance(result, tuple) or len(result) != 2:
            return result  # which the loop refuses
        return result[0], (result[1], dict(recording.choices), dict(recording.derived))

    run.__name__ = run.__qualname__ = program_name(step)
    return run
