"""Objectives checked before they run: strategies, supports, and what jumps; nothing is sampled.

The objective runs on abstract choices, which have shapes and no values, and remember where they go.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...ppl.distributions.support import lists_values
from ...ppl.distributions.validate import no_validation
from ...ppl.errors import BranchError, GuideError, SmoothnessError, located, raising_line, user_line
from ...ppl.interpretations.abstract_run import marks_on, placeholder, single_value, through_lanes
from ...ppl.interpretations.declarations import Found
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.effects import Message, is_latent
from ...ppl.language.handlers import Handler
from ...ppl.language.program import program_name
from ...ppl.tensors.abstract_tensor import Mark, Marks, abstract, concrete, dependence, marks_of
from ...ppl.tensors.seeds import seeded
from ...ppl.types import Site, TraceType, space_of
from ...ppl.types.compatible import Direction, compatible
from .gradients.replay import Notes, Outcome, Run, Settings, as_real, order_of, require_allowed
from .gradients.replay import Site as Choice


class AbstractRun(Run):
    """A run whose choices are abstract."""

    def __init__(self, objective: Callable[[], Any], settings: Settings) -> None:
        super().__init__(objective, settings, Notes())
        self.spaces: dict[int, Site] = {}  # of values, by identity
        self.kept: list[Tensor] = []
        self.followed: dict[str, str] = {}  # choices that are followed along their paths
        self.met_sites: list[tuple[str, Any, int | None]] = []  # name, strategy, order

    def choose(self, site: Choice) -> Any:
        """An abstract value, which is smooth if a derivative goes through it."""
        if not self.forward:
            require_allowed(self, site)
        order = None if site.strategy is None else order_of(site)
        self.met_sites.append((site.name, site.strategy, order))
        smooth = site.strategy is not None and site.strategy.smooth and not self.forward
        label = f"{site.name}#{len(self.kept)}"
        value = abstract(placeholder(site.law), frozenset([Mark(label, smooth)]))
        if smooth:
            self.followed[label] = site.name
        self.require_smooth(marks_on(site.law), f"the law of '{site.name}'")
        self.kept.append(value)
        self.spaces[id(value)] = _site(site.law)
        return value

    def decide(self, name: str, make: Callable[[], Outcome]) -> Outcome:
        return make()

    def draw(self, law: Any, label: str) -> Any:
        return placeholder(law)

    def surrogate(self) -> Tensor:
        """The abstract number that the objective returns."""
        with self:
            return as_real(self.objective())

    def nested(self, objective: Callable[[], Any], notes: Notes | None = None) -> Run:
        inner = AbstractRun(objective, self.settings)
        inner.spaces, inner.kept, inner.followed = self.spaces, self.kept, self.followed
        inner.met_sites = self.met_sites
        return inner

    @contextmanager
    def comparing(
        self, program: Any, choices: dict[str, Tensor], direction: Direction
    ) -> Iterator[None]:
        """Within, a program is scored at choices: they must lie in the supports of its sites."""
        proposed = {n: self.spaces[id(x)] for n, x in choices.items() if id(x) in self.spaces}
        with Collecting(proposed) as theirs:
            yield
        faults = compatible(TraceType(proposed), TraceType(theirs.sites), direction)
        if faults:
            what = f"{program_name(program)} is scored where it has no density: "
            raise GuideError(what + "\n".join(faults))

    def recorder(self, given: dict[str, Tensor], density: bool) -> Recorder:
        return AbstractRecorder(self, given, density)

    def require_smooth(self, marks: Marks, what: str) -> None:
        """Raise if something with these marks jumps as a followed choice moves."""
        for mark in sorted(marks):
            if mark.jump and mark.choice in self.followed:
                name = self.followed[mark.choice]
                cut = mark.jump.startswith("detach")
                how = f"moves with '{name}'" if cut else f"jumps as '{name}' moves"
                what = f"{what} {how}, by {mark.jump}, and a derivative along its path does not"
                hint = "choose it by reinforce or mvd, whose values may be "
                hint += "detached; or leave out detach()" if cut else "compared"
                raise SmoothnessError(located(f"{what} see that", site=name, hint=hint))


def _site(law: Any) -> Site:
    """The site of a choice; a single value counts as an image of choices before it."""
    if lists_values(law) and space_of(law).smooth:
        return Site(space_of(law), line=user_line(), law="image", value=single_value(law))
    return Site(space_of(law), line=user_line())


class AbstractRecorder(Recorder):
    """Takes a density for a smooth function of its value and parameters, whatever it computes."""

    def __init__(self, run: AbstractRun, given: dict[str, Tensor], density: bool) -> None:
        super().__init__(given, density=density, validate=False)
        self.run = run

    def _process_message(self, msg: Message) -> None:
        super()._process_message(msg)
        if msg["type"] == "cond" and dependence(msg["args"][0]):
            msg["fn"] = msg["infer"]["branches"].run_all
        elif msg["type"] == "vmap":
            msg["fn"] = through_lanes(msg["infer"]["lanes"], _look)

    def log_prob(self, msg: Message) -> Tensor:
        fn, name = msg["fn"], msg["name"]
        marks = marks_on(fn) | marks_of((msg["value"], msg["mask"]))
        self.run.require_smooth(marks, f"the density at '{name}'")
        zeros: Tensor = abstract(torch.zeros(fn.batch_shape), marks)
        return zeros


def _look(value: Any) -> Found:
    """What is known of an argument: nothing but its tensor."""
    return Found(torch.as_tensor(concrete(value)), None, not dependence(value))


class Collecting(Handler):
    """The sites of a program that are given values."""

    lane_wise = False

    def __init__(self, given: dict[str, Site]) -> None:
        super().__init__()
        self.given, self.sites = given, dict[str, Site]()

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg) and msg["name"] in self.given:
            self.sites[msg["name"]] = Site(space_of(msg["fn"]), line=user_line())


@dataclass(frozen=True)
class ObjectiveType:
    """What is known of an objective before it runs.

    ``strategies``: of its choices, by name, None where none is needed.  ``order``: how often its
    surrogate may be differentiated, None for ever.  ``biased``: the choices whose strategies are.
    """

    strategies: dict[str, str | None]
    order: int | None
    biased: tuple[str, ...]

    def __repr__(self) -> str:
        choices = ", ".join(n if s is None else f"{n}: {s}" for n, s in self.strategies.items())
        order = "all derivatives" if self.order is None else f"derivatives to order {self.order}"
        bias = f", biased at {', '.join(self.biased)}" if self.biased else ""
        return f"E Real {{{choices}}}, {order}{bias}"


def checked_type(objective: Callable[[], Any], settings: Settings) -> ObjectiveType:
    """The type of an objective; raises what is wrong with it: see ``Objective.check``."""
    run = AbstractRun(objective, settings)
    with no_validation(), seeded(0), torch.enable_grad():
        try:
            run.require_smooth(marks_of(run.surrogate()), "the objective")
        except BranchError as error:
            smooth = [name for label, name in run.followed.items() if f"'{label}'" in str(error)]
            if smooth:
                raise SmoothnessError(
                    located(
                        "Python looks at a value that is followed along its path",
                        site=smooth[0],
                        line=raising_line(error),
                        hint="choose it by reinforce or mvd, whose values may be branched on",
                    )
                ) from error
            raise
    orders = [order for _, _, order in run.met_sites if order is not None]
    names = {name: strategy and strategy.name for name, strategy, _ in run.met_sites}
    biased = dict.fromkeys(
        name for name, strategy, _ in run.met_sites if strategy and strategy.biased
    )
    return ObjectiveType(names, min(orders, default=None), tuple(biased))
