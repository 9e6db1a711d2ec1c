"""Many values taken somewhere by a function at once: the front of a loop goes on in lanes.

One run of the function for each path of its finite choices, however many values there are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map, tree_unflatten

from ...ppl.distributions.validate import no_validation
from ...ppl.tensors.hidden import is_followed, is_hidden
from ...ppl.tensors.keys import settled, shortened
from .lanes import ALIKE, LANES, Apart, PathOfLanes, paths_of
from .measure import Measure
from .sources import Sources

EXACT = 2**53  # whole numbers below are numbers of double precision
FEW = 8  # values that are taken alone, too
Weighted = list[tuple[Any, float]]  # values with log weights


def advanced(
    fn: Callable[[Any], Any], before: Weighted, alone: Callable[[Any], Weighted], budget: int
) -> tuple[Weighted, int, float] | None:
    """Where a function takes weighted values, by its finite choices.

    Equal results are merged.  Returns them, with how many lanes were run and the rounding unit of
    their weights.  None if it cannot be run at many values at once, as with values of several forms
    or that derivatives follow, or if it does not take some of them where it takes them ``alone``;
    or if there are too many lanes, or numbers in them.
    """
    sources = Sources(fn)
    try:
        form, states = Form.of_all([value for value, _ in before])
        taken = _Taken(fn, form)
        with no_validation():
            found = [(path, taken.form) for path in paths_of(taken, states, None, LANES * budget)]
        logs = torch.tensor([log_weight for _, log_weight in before], dtype=torch.float64)
        after = _after(found, logs)
        step = math.ceil(len(before) / FEW)
        each = [(i, value) for i, (value, _) in enumerate(before)][::step]
        starts = torch.full((len(each), len(before)), -math.inf, dtype=torch.float64)
        starts[torch.arange(len(each)), [i for i, _ in each]] = 0.0
        ours = [_after(found, start) for start in starts]
    except Exception:  # the function's own errors arise again path by path, and are told there
        return None
    for (_, value), mine in zip(each, ours, strict=True):
        if not _alike(mine, alone(value)):
            return None
    if sources.moved():
        return None
    lanes = sum(len(path.origin) for path, _ in found)
    return after, lanes, max(path.resolution for path, _ in found)


def _alike(mine: Weighted, other: Weighted) -> bool:
    """Whether two lists of weighted values are one measure, in the same forms."""
    if not Measure.of(mine).deviation(Measure.of(other))[0] <= ALIKE:
        return False
    try:
        forms = [{Form.of(value)[0] for value, _ in values} for values in (other, mine)]
    except Apart:
        return False
    return forms[0] <= forms[1]


def _after(found: list[tuple[PathOfLanes, Form]], logs: Tensor) -> Weighted:
    """Where the paths lead, if the values before have these log weights."""
    after: Weighted = []
    for form in dict.fromkeys(form for _, form in found):
        alike = [path for path, other in found if other == form]
        rows = torch.cat([path.rows for path in alike])
        weights = torch.cat([logs[path.origin] + path.log_weights for path in alike])
        rounded, possible = form.rounded(), weights > -math.inf
        rows, weights = _merged(rows[possible], weights[possible], rounded)
        if bool((rows[:, ~rounded].abs() >= EXACT).any()):
            raise Apart
        after += zip(form.values(rows), weights.tolist(), strict=True)
    return after


def _merged(rows: Tensor, weights: Tensor, rounded: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, k] that are equal as one, with the sum of their weights, as logs.

    Columns that are ``rounded`` [k] are equal up to rounding, as keys are, and NaN is NaN.
    """
    keys = torch.where(rounded, shortened(rows), rows)
    keys = torch.where(keys.isnan(), torch.nan, keys).contiguous().view(torch.int64)
    _, group = torch.unique(keys, dim=0, return_inverse=True)
    count = int(group.max()) + 1 if len(group) else 0
    first = torch.full((count,), len(rows)).scatter_reduce(
        0, group, torch.arange(len(rows)), "amin"
    )
    most = torch.full((count,), -math.inf).double().scatter_reduce(0, group, weights, "amax")
    total = torch.zeros(count).double().index_add(0, group, (weights - most[group]).exp())
    return rows[first], most + total.log()


@dataclass(frozen=True)
class Form:
    """A tree: where its tensors are, of which shapes and kinds, and all that is no tensor."""

    spec: TreeSpec
    others: tuple[_Constant | _Itself | None, ...]  # None in place of a tensor
    shapes: tuple[torch.Size, ...]
    dtypes: tuple[torch.dtype, ...]

    @staticmethod
    def of(value: Any) -> tuple[Form, list[Tensor]]:
        """The form of a value, and its tensors."""
        leaves, spec = tree_flatten(value)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if any(is_followed(x) or x.is_complex() for x in tensors):
            raise Apart
        whole = [x for x in tensors if x.dtype in (torch.int64, torch.int32) and not is_hidden(x)]
        if any(bool((x.abs() >= EXACT).any()) for x in whole):
            raise Apart
        others = tuple(None if isinstance(x, Tensor) else _constant(x) for x in leaves)
        shapes, dtypes = tuple(x.shape for x in tensors), tuple(x.dtype for x in tensors)
        return Form(spec, others, shapes, dtypes), tensors

    def rounded(self) -> Tensor:
        """Which numbers of a row are no whole ones."""
        kinds = zip(self.dtypes, self.shapes, strict=True)
        each = [dtype.is_floating_point for dtype, shape in kinds for _ in range(shape.numel())]
        return torch.tensor(each, dtype=torch.bool)

    @staticmethod
    def of_all(values: list[Any]) -> tuple[Form, list[Tensor]]:
        """The form of values that have the same, and their tensors, stacked."""
        forms, columns = zip(*map(Form.of, values), strict=True)
        if any(form != forms[0] for form in forms):
            raise Apart
        return forms[0], [torch.stack(column) for column in zip(*columns, strict=True)]

    def value(self, tensors: Iterable[Tensor]) -> Any:
        """The value that has these tensors."""
        each = iter(tensors)
        return tree_unflatten(
            [next(each) if x is None else x.value for x in self.others], self.spec
        )

    def values(self, rows: Tensor) -> Iterator[Any]:
        """The values whose tensors have the numbers in rows [n, k]."""
        parts = rows.split([shape.numel() for shape in self.shapes], 1)
        columns = [
            part.reshape(-1, *shape).to(dtype).unbind()
            for part, shape, dtype in zip(parts, self.shapes, self.dtypes, strict=True)
        ]
        return (self.value(each) for each in zip(*columns, strict=True))


@dataclass(frozen=True)
class _Constant:
    """A number or a text, of its kind."""

    kind: type
    value: Any


@dataclass(frozen=True, eq=False)
class _Itself:
    """Anything else, which is equal to itself alone."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def _constant(value: Any) -> _Constant | _Itself:
    known = value is None or type(value) in (bool, int, float, str, bytes)
    return _Constant(type(value), value) if known else _Itself(value)


class _Taken:
    """A function of values as one of their tensors; ``form`` is that of its last result."""

    def __init__(self, fn: Callable[[Any], Any], before: Form) -> None:
        self.fn, self.before, self.form = fn, before, before

    def __call__(self, tensors: list[Tensor]) -> list[Tensor]:
        value = tree_map(settled, self.fn(self.before.value(tensors)))
        self.form, found = Form.of(value)
        return found
