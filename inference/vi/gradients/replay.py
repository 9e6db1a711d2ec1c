"""The transformation of an objective into a surrogate, by replay: the reference.

The surrogate S of a program that returns a real number is a tensor with two invariants: E[S] is
the program's expected value, and E[dS] is the derivative of that.  What follows a choice, its
continuation K, is run by running the program from the start with the outcomes so far fixed.  A
choice along a path, or by a score, goes on; one by a score leaves a factor box = p / (p held
constant) behind.  Any other choice forks: it combines the continuations of several outcomes.
Combinations are linear in K and keep constants, so the factors may be applied where each run ends.

Source: Lew, Huot, Staton, Mansinghka, ADEV (arXiv 2212.06386); Becker et al., Probabilistic
Programming with Programmable Variational Inference (arXiv 2406.15742); Foerster et al., DiCE (arXiv
1802.05098) for the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ....ppl.distributions.strategies import (
    inner_law,
    plain,
    require_legal,
    require_strategy,
    strategy_of,
)
from ....ppl.errors import BudgetError, ObjectiveError, StrategyError, located
from ....ppl.interpretations.recorder import Recorder
from ....ppl.language.effects import Message, draw, is_draw, outside, stack
from ....ppl.types import Direction
from .baselines import Baseline

Outcome = Any  # what fixes a choice: its value, or the noise that it is made of
Noise = dict[tuple[str, int, int], Outcome]  # by name, part, and how often the name was met
Objective = Callable[[], Any]


@dataclass
class Score:
    """The log densities [*batch] of a choice, and what is subtracted from what follows.

    ``offset`` may be set until the run ends; it must not depend on the choice.  ``control`` may
    depend on it, if ``mean`` is its differentiable mean.  ``cost`` is what followed.
    """

    site: str
    value: Tensor
    elements: Tensor
    baseline: Baseline | None = None
    offset: Tensor | float = 0.0
    control: Tensor | float = 0.0
    mean: Tensor | float = 0.0
    cost: Tensor | None = None


@dataclass(frozen=True)
class Site:
    """A choice: its name, its law, and the strategy to differentiate it by, or None."""

    name: str
    law: Any
    strategy: Any


def site_of(name: str, distribution: Any) -> Site:
    """The choice of a value of a distribution."""
    return Site(name, plain(distribution), strategy_of(distribution))


def cancelled(x: Tensor) -> Tensor:
    """Zero, with the derivative of x."""
    return x - x.detach()


def weighed(value: Tensor, scores: list[Score]) -> Tensor:
    """A value times the factors of its scores, each about its baseline."""
    for score in reversed(scores):
        score.cost = value.detach()
        offset = torch.as_tensor(score.offset + score.control).detach()
        if score.baseline is not None:
            predicted = score.baseline.predict()
            offset = offset + predicted.detach()
            value = value - cancelled((predicted - score.cost) ** 2)
        box = torch.exp(cancelled(score.elements.sum()))
        value = box * value - (box - 1) * offset + cancelled(torch.as_tensor(score.mean))
    return value


class Settings(NamedTuple):
    """How a program is transformed.

    ``order``: how often the surrogate is to be differentiated.  ``biased``: whether strategies may
    be.  ``budget``: the most runs.  ``probe``: changes the law of a choice by zero, to follow it.
    ``weigh``: what brings scores to bear on a value.
    """

    order: int = 1
    biased: bool = False
    budget: int = 10_000
    probe: Callable[[str, Any], Any] | None = None
    weigh: Callable[[Tensor, list[Score]], Tensor] = weighed


@dataclass
class Notes:
    """What the runs of a transformation met: how many, and the costs that baselines stand for."""

    runs: int = 0
    costs: list[tuple[str, Baseline, Any]] = field(default_factory=list)


class Ambient:
    """Notices random numbers that are drawn from torch between two draws of runs."""

    def __init__(self) -> None:
        self.before, self.drawing = b"", False

    @contextmanager
    def within(self) -> Iterator[None]:
        """Within, a run draws: no run around it takes that for a choice of its own."""
        self.note()
        before, self.drawing = self.drawing, True
        try:
            yield
        finally:
            self.drawing = before
            self.seen()

    def seen(self) -> None:
        """From here on, what is drawn is drawn outside of runs."""
        self.before = _random_state()

    def note(self) -> None:
        """Tell all runs in progress if there was any since the last draw."""
        if _random_state() != self.before:
            for handler in stack():
                if isinstance(handler, Run):
                    handler.ambient = True
        self.seen()


def _random_state() -> bytes:
    states = [torch.get_rng_state()]
    if torch.cuda.is_initialized():
        states += torch.cuda.get_rng_state_all()
    return b"".join(state.numpy().tobytes() for state in states)


AMBIENT = Ambient()


class Fork(BaseException):
    """Ends a run at a choice that combines the continuations of several outcomes."""

    def __init__(self, name: str, combine: Callable[[Continuation], Tensor]) -> None:
        self.name, self.combine = name, combine


class Run(Messenger):  # type: ignore[misc]
    """One run of a program, with the outcomes of its first choices fixed.

    Args:
        objective: a function of no arguments that returns a real number.
        outcomes: the names and outcomes of the first choices.
        noise: what all continuations of a fork have in common.
        forward: whether only a value is asked for: then no choice forks or leaves a factor.
    """

    masks_latents = True  # of branches that are not taken: the trace has none there

    def __init__(
        self,
        objective: Objective,
        settings: Settings,
        notes: Notes,
        outcomes: tuple[tuple[str, Outcome], ...] = (),
        noise: Noise | None = None,
        forward: bool = False,
    ) -> None:
        super().__init__()
        self.objective, self.settings, self.notes = objective, settings, notes
        self.outcomes, self.met = list(outcomes), 0
        self.noise, self.forward = {} if noise is None else noise, forward
        self.scores: list[Score] = []
        self.ambient = False  # whether random numbers were drawn outside the effects
        self.subsamples: dict[str, Tensor] = {}

    def _process_message(self, msg: Message) -> None:
        """An anonymous draw of the objective is a choice, which replays do not make anew."""
        if msg["type"] == "sample" and is_draw(msg) and not AMBIENT.drawing:
            msg["value"] = self.choose(site_of(msg["name"], msg["fn"]))
            msg["done"] = msg["stop"] = True

    def choose(self, site: Site) -> Any:
        """The value of a choice, fixed or new."""
        if self.met == len(self.outcomes) and not self.forward:
            require_allowed(self, site)
        if self.settings.probe is not None and site.strategy is not None and not self.forward:
            site = replace(site, law=self.settings.probe(site.name, site.law))
        if site.strategy is None:
            return self.decide(site.name, lambda: self.draw(site.law, site.name))
        estimator = ESTIMATORS[type(site.strategy)]
        make = estimator.forward if self.forward and estimator.forward else estimator.outcome
        outcome = self.decide(site.name, lambda: make(self, site))
        value = estimator.value(self, site, outcome)
        return value.detach() if self.forward else value

    def decide(self, name: str, make: Callable[[], Outcome]) -> Outcome:
        """The outcome of the next choice: the fixed one, or a new one."""
        if self.met == len(self.outcomes):
            self.outcomes.append((name, make()))
        fixed, outcome = self.outcomes[self.met]
        if fixed != name:
            what = f"the objective is impure: it chose '{fixed}' where it chooses '{name}' now"
            hint = "remove hidden state, and randomness outside the effects"
            raise ObjectiveError(located(what, hint=hint))
        self.met += 1
        return outcome

    def draw(self, law: Any, label: str) -> Tensor:
        """A draw of a law that no parameter moves."""
        with AMBIENT.within(), outside(self), torch.no_grad():
            return draw(law, label=label)

    def shared(self, name: str, law: Any, part: int = 0) -> Any:
        """Noise of the choice being made, which the continuations of all forks so far share."""
        key = name, part, sum(1 for met, _ in self.outcomes if met == name)
        if key not in self.noise:
            self.noise[key] = self.draw(law, name)
        return self.noise[key]

    def nested(self, objective: Objective, notes: Notes | None = None) -> Run:
        """A run of another objective, with the same settings and noise of its own."""
        return Run(objective, self.settings, notes or self.notes, forward=self.forward)

    def recorder(self, given: dict[str, Tensor], density: bool) -> Recorder:
        """What records a run of a program, with some of its choices given."""
        return Recorder(given, density=density)

    @contextmanager
    def comparing(
        self, program: Any, choices: dict[str, Tensor], direction: Direction
    ) -> Iterator[None]:
        """Within, a program is scored at choices."""
        yield

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within, every choice is drawn from its law and held constant."""
        before, self.forward = self.forward, True
        try:
            yield
        finally:
            self.forward = before

    def _ended(self) -> Tensor:
        """The value of the program; a choice that forks ends it before."""
        try:
            return as_real(self.objective())
        except Fork:
            AMBIENT.note()
            raise

    def _require_repeatable(self, name: str) -> None:
        """Raise if the runs of the outcomes of a choice would see other random numbers before."""
        if self.ambient:
            what = "random numbers are drawn outside the effects before a choice whose outcomes"
            hint = "draw them by draw(...), put layers such as dropout in eval mode, or reinforce"
            raise ObjectiveError(located(f"{what} are run one by one", site=name, hint=hint))

    def surrogate(self) -> Tensor:
        """The surrogate of the program from where the fixed outcomes end; see the module.

        Errors:
            BudgetError: it takes too many runs.
            ObjectiveError: the program returns no number.
        """
        self.notes.runs += 1
        if self.notes.runs > self.settings.budget:
            names = ", ".join(dict.fromkeys(repr(name) for name, _ in self.outcomes))
            what = f"the objective takes more than {self.settings.budget} runs (choices: {names})"
            hint = "enumerate fewer choices: mvd and reinforce take the others"
            raise BudgetError(located(what, hint=hint))
        if not any(isinstance(handler, Run) for handler in stack()):
            AMBIENT.seen()
        try:
            with self:
                value = self._ended()
        except Fork as fork:
            self._require_repeatable(fork.name)
            return fork.combine(Continuation(self, fork.name))
        if self.forward:
            return value
        value = self.settings.weigh(value, self.scores)
        self.notes.costs += [(s.site, s.baseline, s.cost) for s in self.scores if s.baseline]
        return value


class Estimator(NamedTuple):
    """``outcome`` may fork; ``forward`` does not; ``value`` may leave a score behind.

    ``order``: how often the estimate may be differentiated, None for ever.
    """

    outcome: Callable[[Run, Site], Outcome]
    value: Callable[[Run, Site, Outcome], Any]
    order: Callable[[Site], int | None] = lambda site: None
    forward: Callable[[Run, Site], Outcome] | None = None


# By the type of the strategy; ``estimators`` enters those of the library.
ESTIMATORS: dict[type, Estimator] = {}


def order_of(site: Site) -> int | None:
    """How often an estimate of what follows a choice may be differentiated, None for ever."""
    return ESTIMATORS[type(site.strategy)].order(site)


def require_allowed(run: Run, site: Site) -> None:
    """Raise unless a choice has a strategy, if it needs one, that is legal in this run."""
    if site.strategy is None:
        require_strategy(site.name, site.law)
        return
    require_legal(site.name, site.law, site.strategy)
    name, settings = site.strategy.name, run.settings
    if site.strategy.biased and not settings.biased:
        what, hint = f"{name} is biased", "choose another strategy, or objective.allowing_bias()"
        raise StrategyError(located(what, site=site.name, hint=hint))
    order = order_of(site)
    if order is not None and settings.order > order:
        kind = type(inner_law(site.law)).__name__
        what = f"{name} of {kind} has derivatives of order {order}, not {settings.order}"
        raise StrategyError(located(what, site=site.name, hint="use enum or reinforce"))


class Continuation(NamedTuple):
    """What follows a choice of a run."""

    run: Run
    name: str

    def __call__(self, outcome: Outcome) -> Tensor:
        """The surrogate of what follows an outcome."""
        return self._after(outcome, self.run.noise, self.run.forward)

    def apart(self, outcome: Outcome) -> Tensor:
        """The same with noise of its own."""
        return self._after(outcome, {}, self.run.forward)

    def value(self, outcome: Outcome) -> Tensor:
        """An unbiased estimate of what follows an outcome, without its derivative."""
        with torch.no_grad():
            return self._after(outcome, self.run.noise, True).detach()

    def _after(self, outcome: Outcome, noise: Noise, forward: bool) -> Tensor:
        run, outcomes = self.run, (*self.run.outcomes, (self.name, outcome))
        return Run(run.objective, run.settings, run.notes, outcomes, noise, forward).surrogate()


def current() -> Run:
    """The run in progress.

    Errors:
        ObjectiveError: there is none.
    """
    for handler in reversed(stack()):
        if isinstance(handler, Run):
            return handler
    what = "this is a part of objectives"
    raise ObjectiveError(located(what, hint="use it in a function that is marked @objective"))


def as_real(value: Any) -> Tensor:
    """The number that an objective returns.

    Errors:
        ObjectiveError: it returns anything else.
    """
    found = getattr(value, "surrogate", value)
    if not isinstance(found, Tensor | bool | int | float):
        what = f"an objective returns one number, not a {type(found).__name__}"
        raise ObjectiveError(located(what, hint="return what is to be maximised"))
    number = torch.as_tensor(found)
    if number.numel() != 1:
        what = f"an objective returns one number, not a tensor of shape {list(number.shape)}"
        raise ObjectiveError(located(what, hint="sum it, or take its mean"))
    if not number.is_floating_point():
        number = number.to(torch.get_default_dtype())
    return number.reshape(())
