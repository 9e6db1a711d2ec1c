"""The choices of one step of a scan, by the names that the step uses: given, proposed, recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from ...ppl.distributions.validate import check_data
from ...ppl.errors import DataError, GuideError, ProgramError, located
from ...ppl.language.effects import (
    Message,
    is_draw,
    is_latent,
    is_subsample,
    outside,
    whole_indices,
)
from ...ppl.language.handlers import Handler, Proposing, Sampling, Untracing, Weighing
from ...ppl.language.program import Callback, program_name

Given = dict[str, Tensor]
Propose = Callable[[Any, Any], None]  # from the carry and the row of a step


class _Naming(Handler):
    """Stands in the step, and notes by which name the step knows each of its sites."""

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            msg["infer"] = {**(msg["infer"] or {}), "in_step": msg["name"]}


class StepChoices(Handler):
    """Stands around a program that is run by one step, whose choices it ``made``.

    What is given takes the place of the step's own choice, and is scored.  Data, interventions and
    masks within the program come first.
    """

    lane_wise = False

    def __enter__(self) -> Any:
        self.made: Given = {}
        self.given: Given = {}
        self.log_density: Tensor | float = 0.0  # by which the given were proposed
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.made), dict(self.given), self.log_density

    def restore(self, state: Any) -> None:
        self.made, self.given, self.log_density = dict(state[0]), dict(state[1]), state[2]

    def around(self, step: Callback) -> Callback:
        """The step, with the choices that are given to it."""

        def run(carry: Any, row: Any) -> Any:
            self.begin(carry, row)
            with _Naming():
                result = step(carry, row)
            if unmet := self.given.keys() - self.made.keys():
                self.refuse(sorted(unmet))
            return result

        run.__name__ = run.__qualname__ = program_name(step)
        return run

    def begin(self, carry: Any, row: Any) -> None:
        """Before the step runs from a carry, with the entries of its row."""

    def refuse(self, unmet: list[str]) -> None:
        """The step does not make these choices, which are given."""
        raise NotImplementedError

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or "in_step" not in (msg["infer"] or {}) or not is_latent(msg):
            return
        name = msg["infer"]["in_step"]
        self.mark(msg, name)
        if name in self.given:
            check_data(msg["name"], msg["fn"], self.given[name])
            msg["value"], msg["is_observed"] = self.given[name], True
            msg["infer"]["latent"] = True

    def _postprocess_message(self, msg: Message) -> None:
        if name := self.marked(msg):
            self.made[name] = msg["value"]


class Proposed(StepChoices):
    """Some choices of the step are drawn by a proposal."""

    def __init__(self, propose: Propose, name: str) -> None:
        super().__init__()
        self.propose, self.name = propose, name

    def begin(self, carry: Any, row: Any) -> None:
        with outside(self), Weighing() as scored, Untracing(), Proposing() as proposal, Sampling():
            self.propose(carry, row)
        if isinstance(scored.log_weight, Tensor):
            hint = "leave observations and factors to the program"
            raise GuideError(located(f"the proposal {self.name} scores", hint=hint))
        self.given, self.log_density = proposal.choices, proposal.log_density

    def refuse(self, unmet: list[str]) -> None:
        what = f"the proposal {self.name} proposes {unmet}, which the step does not sample"
        hint = "rename the sites of the proposal; what it draws for itself, it draws by draw(...)"
        raise DataError(located(what, hint=hint))


class Retraced(StepChoices):
    """All choices of the step are named; they are those of another run of it, if any is given."""

    def __init__(self, choices: Given | None = None) -> None:
        super().__init__()
        self.choices = choices

    def begin(self, carry: Any, row: Any) -> None:
        self.given = self.choices or {}

    def refuse(self, unmet: list[str]) -> None:
        raise self._error(f"the step makes the choices {unmet} after some carries only")

    def _process_message(self, msg: Message) -> None:
        super()._process_message(msg)
        if msg["type"] != "sample" or "in_step" not in (msg["infer"] or {}):
            return
        drawn = is_draw(msg) or (
            is_subsample(msg) and msg["value"] is None and whole_indices(msg) is None
        )
        if drawn:
            raise self._error("the step draws anonymously")
        if is_latent(msg) and self.choices is not None:
            name = msg["infer"]["in_step"]
            raise self._error(f"the step chooses '{name}' after some carries only")

    def _error(self, what: str) -> ProgramError:
        more = "so that no density tells how one particle goes on to another's next state"
        hint = "name the draws with sample(...), and make the same choices in every step"
        return ProgramError(located(f"{what}, {more}", hint=hint))
