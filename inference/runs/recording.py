"""A program that returns what it chose: its latents and deterministic sites, by name."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from torch import Tensor

from ...ppl.interpretations.recorder import kind_of
from ...ppl.language.effects import Message, is_draw, is_subsample
from ...ppl.language.handlers import Handler, split_name
from ...ppl.language.program import Callback, Program, program_name


class Recorded(NamedTuple):
    """What a run made: its latents and deterministic sites by name, and its result.

    The names are those of a trace of the program.  Where an algorithm runs a ``scan`` step by step
    (``particle_filter``), the sites ``z[t]`` of the steps are stacked as ``z[*]``.
    """

    choices: dict[str, Tensor]
    derived: dict[str, Tensor]
    value: Any

    def by_step(self) -> Recorded:
        """Many runs [n, ...] with all sites of a scan under the names of their steps."""
        return self._replace(choices=_by_step(self.choices), derived=_by_step(self.derived))


class Steps(NamedTuple):
    """The outputs of a scan, with what its steps chose."""

    outputs: Any
    choices: dict[str, Tensor]
    derived: dict[str, Tensor]


def recorded(p: Callback) -> Program:
    """The program that returns ``Recorded`` runs of p; its measure on traces is that of p.

    Algorithms that suspend a program at its scan (``particle_filter``) record it too, since the
    choices of each step are among the outputs of the loop.

    Errors:
        ProgramError: such an algorithm meets steps of which not all make the same choices, as where
            data are given for some of them.
    """

    def run(*args: Any) -> Recorded:
        with Recording() as recording:
            value = p(*args)
        return Recorded(dict(recording.choices), dict(recording.derived), value)

    run.__name__ = run.__qualname__ = f"recorded({program_name(p)})"
    return Program(run)


def _by_step(sites: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for name, x in sites.items():
        if "[*]" in name:
            found |= {name.replace("[*]", f"[{t}]", 1): row for t, row in enumerate(x.unbind(1))}
        else:
            found[name] = x
    return found


class Recording(Handler):
    """Notes the latents and deterministic sites of the program inside, as a trace of it would.

    So it stands outside all that renames sites, observes them or sets them.
    """

    lane_wise = False
    spans_scans = True

    def __enter__(self) -> Any:
        self.choices: dict[str, Tensor] = {}
        self.derived: dict[str, Tensor] = {}
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.choices), dict(self.derived)

    def restore(self, state: Any) -> None:
        self.choices, self.derived = map(dict, state)

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "loop" and msg["infer"]["loop"].has_outputs:
            self.mark(msg, "scan")
            loop = msg["infer"].get("suspended", msg["infer"]["loop"])
            msg["infer"]["suspended"] = replace(loop, step=self._with_choices(loop.step))
        elif msg["type"] == "sample" and not (is_draw(msg) or is_subsample(msg)):
            self.mark(msg, f"{kind_of(msg)} {msg['name']}")

    def _postprocess_message(self, msg: Message) -> None:
        kind, _, name = self.marked(msg).partition(" ")
        if kind == "latent":
            self.choices[name] = msg["value"]
        elif kind == "derived":
            self.derived[name] = msg["value"]
        elif kind == "scan" and isinstance(msg["value"][1], Steps):
            carry, (outputs, choices, derived) = msg["value"]
            msg["value"] = carry, outputs
            self.choices |= choices
            self.derived |= derived

    def _with_choices(self, step: Callback) -> Callback:
        """The step of a scan that is run by itself, with its choices among its outputs."""

        def run(carry: Any, x: Any) -> Any:
            before = self.state()
            result = step(carry, x)
            after = self.state()
            if not isinstance(result, tuple) or len(result) != 2:
                return result  # which the loop refuses
            choices, derived = (
                {_for_all(name): x for name, x in now.items() if name not in earlier}
                for earlier, now in zip(before, after, strict=True)
            )
            return result[0], Steps(result[1], choices, derived)

        run.__name__ = run.__qualname__ = program_name(step)
        return run


def _for_all(name: str) -> str:
    """The name ``z[t]`` of a site without the number of its step, ``z[*]``, as of a traced step."""
    base, index = split_name(name)
    return name if "[*]" in name else base + "[*]" + "".join(f"[{i}]" for i in index[1:])
