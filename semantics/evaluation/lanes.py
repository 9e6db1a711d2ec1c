"""Runs of a function in lanes: one for each path of its finite choices.

A run is a lane of ``torch.vmap`` for each state and each node of its continuous choices. One that
asks for values where lanes have different ones, or that does not do the same lane by lane, is no
such run: ``Apart`` is raised, or what torch raises.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from pyro.distributions import Delta
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Uniform
from torch.utils._pytree import tree_leaves, tree_map

from ...ppl.distributions.ancestors import Systematic
from ...ppl.distributions.densities import log_density
from ...ppl.distributions.masks import core
from ...ppl.distributions.support import finite_support, lists_values
from ...ppl.distributions.validate import constrained
from ...ppl.errors import BudgetError, located
from ...ppl.language.combinators import Lanes, stack_outputs
from ...ppl.language.effects import (
    Message,
    is_draw,
    is_subsample,
    law_of,
    scaled_log_prob,
    stack,
    whole_indices,
)
from ...ppl.language.handlers import Lane, is_one
from ...ppl.types.supports import support_of
from .compared import Compared, Interval, is_uniform
from .measure import EPSILON
from .shifted import nodes
from .sources import AGAIN, elsewhere
from .waves import row_of

LANES = 20  # for each path of a budget: one costs far less
CHUNK = 200_000  # lanes that are held at once
NUMBERS = 20_000_000  # in all results together
PATHS = 1_000
MOST = 1_000  # finite choices of one path: others may never end
GOLDEN = (5**0.5 - 1) / 2
ALIKE = 1e-9  # of numbers by themselves and in lanes


class Apart(Exception):
    """The kernel cannot be run in lanes."""


class PathOfLanes(NamedTuple):
    """The lanes [l] of one path: its finite choices, sizes of its continuous ones, and results.

    ``resolution`` is the rounding unit of its log weights.
    """

    choices: list[int]
    sizes: list[int]
    origin: Tensor
    places: Tensor
    rows: Tensor
    log_weights: Tensor
    resolution: float


def paths_of(
    kernel: Callable[..., Any], states: Any, count: int | None, most: int
) -> Iterator[PathOfLanes]:
    """Every path of the kernel from all states [n]."""
    waiting: list[tuple[list[int], list[int]]] = [([], [])]
    lanes = runs = numbers = 0
    while waiting:
        choices, sizes = waiting.pop()
        runs += 1
        if runs > PATHS:
            raise Apart
        if lanes + len(tree_leaves(states)[0]) * math.prod(sizes) > most:
            what = f"more than {most} lanes of a kernel"
            raise BudgetError(located(what, hint="lower quadrature=, or raise budget="))
        found = _lanes_of(kernel, states, count, choices, sizes)
        if isinstance(found, list):  # another continuous choice
            waiting.append((choices, found))
            continue
        path, opened = found
        lanes += len(path.origin)
        numbers += path.rows.numel()
        if numbers > NUMBERS:
            raise Apart
        waiting.extend((prefix, sizes[:used]) for prefix, used in opened)
        yield path


def _lanes_of(
    kernel: Callable[..., Any], states: Any, count: int | None, choices: list[int], sizes: list[int]
) -> tuple[PathOfLanes, list[_Opened]] | list[int]:
    """A path and those that branch off; or the sizes of one with another continuous choice."""
    n = len(tree_leaves(states)[0])
    axes = [torch.arange(size) for size in (n, *sizes)]
    grid = torch.cartesian_prod(*axes).reshape(-1, len(axes))
    origin, places = grid[:, 0], grid[:, 1:]
    run = _Run(kernel, count, choices, sizes)
    lanes = _at(states, origin), places, _shifts(origin)
    try:
        rows, weights, wrong = torch.func.vmap(run, chunk_size=CHUNK)(*lanes)
    except _More as more:
        return more.sizes
    if bool((weights.isnan() | (weights == math.inf) | wrong).any()):
        raise Apart
    path = PathOfLanes(run.taken, sizes, origin, places, rows, weights, run.resolution)
    return path, run.opened


class _Opened(NamedTuple):
    """A path that another has left: its finite choices, and how many continuous ones precede."""

    choices: list[int]
    used: int


class _More(Exception):
    """A path has another continuous choice, with so many nodes."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__()
        self.sizes = sizes


class _Run:
    """A run of a kernel at one state, by its finite choices, and the place of each continuous one.

    ``taken`` are the finite choices that it made, and ``opened`` the paths that it left.  It tells
    the numbers of the result, the log weight, and whether a law had parameters that it cannot have.
    """

    def __init__(
        self, kernel: Callable[..., Any], count: int | None, choices: list[int], sizes: list[int]
    ) -> None:
        self.kernel, self.count, self.choices, self.sizes = kernel, count, choices, sizes
        self.taken: list[int] = []
        self.opened: list[_Opened] = []
        self.resolution = EPSILON

    def __call__(self, state: Any, places: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        chooser = _Chooser(self, places, shift)
        with chooser:
            value = self.kernel(state)
        self.taken, self.opened = chooser.taken, chooser.opened
        self.resolution = chooser.resolution
        return row_of(value), chooser.log_weight.detach(), chooser.wrong


class _Chooser(Messenger):  # type: ignore[misc]
    """Makes the choices of one run."""

    def __init__(self, run: _Run, places: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.run, self.places, self.shift, self.axis = run, places, shift, 0
        self.taken: list[int] = []
        self.opened: list[_Opened] = []
        self.names: set[str] = set()
        self.wrong = torch.tensor(False)
        self.log_weight = torch.zeros((), dtype=torch.float64)
        self.resolution = EPSILON

    def see(self, numbers: Tensor) -> Tensor:
        """Note the rounding unit of numbers on which the weight depends."""
        if numbers.is_floating_point():
            self.resolution = max(self.resolution, torch.finfo(numbers.dtype).eps)
        return numbers

    def pick(self, log_shares: Tensor) -> int:
        """A finite choice, by the logs [k] of its probabilities: the same in all lanes."""
        if (at := len(self.taken)) == MOST:
            raise Apart
        if at < len(self.run.choices):
            part = self.run.choices[at]
        else:
            part = 0
            others = range(1, len(log_shares))
            self.opened.extend(_Opened([*self.taken, other], self.axis) for other in others)
        self.taken.append(part)
        self.log_weight = self.log_weight + log_shares[part].double()
        return part

    def node(self, law: Any) -> Tensor:
        """A continuous choice: another node in each lane."""
        if self.run.count is None:
            raise Apart
        shift = self.shift * (1 + self.axis)
        values, logs = nodes(law, self.run.count, shift)
        if self.axis == len(self.run.sizes):
            raise _More([*self.run.sizes, len(values)])
        place = self.places[self.axis]
        self.axis += 1
        self.log_weight = self.log_weight + logs.gather(0, place[None])[0].double()
        return values.index_select(0, place[None])[0]

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "vmap":
            handlers = stack()
            if not all(map(is_lane_wise, handlers[handlers.index(self) + 1 :])):
                raise Apart
            lanes = msg["infer"]["lanes"]
            msg["fn"] = lambda *args: stack_outputs(
                [_lane(lanes, args, i) for i in range(lanes.size)]
            )
        elif msg["type"] in ("memo", "normalize", "fix"):
            raise Apart
        msg["stop"] = True

    def _sample(self, msg: Message) -> None:
        if is_subsample(msg):
            if msg["value"] is None:
                msg["value"] = whole_indices(msg)
            if msg["value"] is None:
                raise Apart
            msg["done"] = True
            return
        law = law_of(msg)
        self._look_at(msg["name"], law, named=not is_draw(msg))
        if msg["is_observed"] or msg["value"] is not None:
            if not msg["infer"].get("_deterministic"):
                self.log_weight = self.log_weight + self.see(scaled_log_prob(msg)).double()
        elif not (is_draw(msg) or is_one(msg["scale"])):
            raise Apart
        elif is_draw(msg) and is_uniform(law):
            msg["value"] = Compared.of(_InLanes(law, self), self.see(law.low).dtype)
        elif isinstance(law, Systematic):
            values, logs = law.pieces()
            msg["value"] = values[self.pick(self.see(logs))]
        elif lists_values(law) or support_of(law).is_discrete:
            values, _ = finite_support(law, impossible=True)
            logs = self.see(log_density(law, values))
            if is_draw(msg) and isinstance(core(law), Delta):
                logs = torch.zeros_like(logs)  # drawn whatever its own log density is
            msg["value"] = values[self.pick(logs.reshape(len(values), -1).sum(1))]
        else:
            msg["value"] = self.see(self.node(law))
        msg["done"] = True

    def _look_at(self, name: str, law: Any, named: bool) -> None:
        """Note a law whose parameters are out of range in some lanes that are possible.

        What else is told of sites, a run by itself tells.
        """
        if named and name in self.names:
            raise Apart
        self.names |= {name} if named else set()
        possible = self.log_weight > -math.inf
        for *_, valid in constrained(law):
            self.wrong = self.wrong | possible & ~valid.all()


def is_lane_wise(handler: Messenger) -> bool:
    """Whether a handler does to a lane on its own what it does to that lane among all."""
    held = getattr(handler, "scale", None), getattr(handler, "mask", None)
    if any(isinstance(item, Tensor) and item.ndim for item in held):
        return False
    return bool(getattr(handler, "lane_wise", True))


class _InLanes(Interval):
    """A uniform number of which each lane knows another interval."""

    def __init__(self, law: Any, chooser: _Chooser) -> None:
        super().__init__(law.low, law.high)
        self._chooser = chooser

    def pick(self, log_shares: Tensor) -> int:
        return self._chooser.pick(log_shares)

    def node(self) -> Tensor:
        return self._chooser.node(Uniform(self.low, self.high, validate_args=False))


def _at(states: Any, origin: Tensor) -> Any:
    """One of the states, or one for each lane."""
    return tree_map(lambda leaf: leaf[origin], states)


def _shifts(origin: Tensor) -> Tensor:
    """Of the nodes from each state [n]."""
    return origin.double() * GOLDEN


def _lane(lanes: Lanes, args: tuple[Any, ...], i: int) -> Any:
    with Lane(i):
        return lanes.fn(*lanes.arguments(args, i))


def require_alike(
    kernel: Callable[..., Any], states: Any, count: int | None, paths: list[PathOfLanes]
) -> None:
    """Raise unless single runs, of each path some and 64 at least, give what lanes gave."""
    each = max(2, math.ceil(AGAIN / len(paths)))
    generator = torch.Generator().manual_seed(0)
    for number, path in enumerate(paths):
        run = _Run(kernel, count, path.choices, path.sizes)
        for i in torch.randint(len(path.origin), (each,), generator=generator).tolist():
            origin = path.origin[i]
            with elsewhere(number):
                row, log_weight, _ = run(_at(states, origin), path.places[i], _shifts(origin))
            if float(path.log_weights[i]) == float(log_weight) == -math.inf:
                continue
            found, wanted = torch.cat([row, log_weight[None]]), path.rows[i]
            wanted = torch.cat([wanted, path.log_weights[i][None]])
            if run.taken != path.choices or not torch.allclose(found, wanted, ALIKE, ALIKE):
                raise Apart
