"""Numbers of which only unbiased estimates are known, and what may be done with them.

An estimate may be added, and multiplied by what is known and by independent estimates: the
expected value of the result is what it says.  Any other function of it would be biased.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ....ppl.errors import ObjectiveError, located
from ....ppl.language.batching import run_batched
from ..gradients.baselines import Baseline
from ..gradients.replay import Notes, current


class Estimate:
    """An unbiased estimate of a real number.

    ``surrogate`` [] has its value and, in expectation, its derivative.  ``sources``: the noise that
    it is made of.
    """

    def __init__(self, surrogate: Tensor, sources: frozenset[object]) -> None:
        self.surrogate, self.sources = surrogate, sources

    def __add__(self, other: Estimate | Tensor | float) -> Estimate:
        if isinstance(other, Estimate):
            return Estimate(self.surrogate + other.surrogate, self.sources | other.sources)
        return Estimate(self.surrogate + other, self.sources)

    def __mul__(self, other: Estimate | Tensor | float) -> Estimate:
        if not isinstance(other, Estimate):
            return Estimate(self.surrogate * other, self.sources)
        if self.sources & other.sources:
            what = "a product of estimates that share their noise is biased"
            raise ObjectiveError(located(what, hint="estimate each factor by an expect of its own"))
        return Estimate(self.surrogate * other.surrogate, self.sources | other.sources)

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> Estimate:
        return self * -1.0

    def __sub__(self, other: Estimate | Tensor | float) -> Estimate:
        return self + (-other)

    def __rsub__(self, other: Tensor | float) -> Estimate:
        return -self + other

    def __truediv__(self, other: Tensor | float) -> Estimate:
        if isinstance(other, Estimate):
            raise _not_linear("a quotient")
        return self * (1.0 / torch.as_tensor(other))

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Tensor operations with an estimate: sums and products; all else is refused."""
        name = getattr(func, "__name__", "").strip("_")
        operation = _LINEAR.get(name)
        if operation is None or kwargs:
            raise _not_linear(name)
        return operation(*args)

    def __getattr__(self, name: str) -> Any:
        if name in ("exp", "log", "log1p", "expm1", "sqrt", "square", "abs", "pow", "sigmoid"):
            raise _not_linear(name)
        raise AttributeError(f"an Estimate has no {name}")

    def __pow__(self, exponent: Any) -> Any:
        raise _not_linear("a power")

    def __bool__(self) -> bool:
        raise _not_linear("a decision")

    def __float__(self) -> float:
        return float(self.surrogate.detach())

    def __repr__(self) -> str:
        return f"Estimate({self.surrogate.detach()})"


_LINEAR: dict[str, Callable[..., Estimate]] = {
    "add": lambda a, b: b + a if isinstance(b, Estimate) else a + b,
    "sub": lambda a, b: -b + a if isinstance(b, Estimate) else a - b,
    "mul": lambda a, b: b * a if isinstance(b, Estimate) else a * b,
}


def _not_linear(name: str) -> ObjectiveError:
    what = f"{name} of an estimate is biased: it is no function of the expected value"
    return ObjectiveError(
        located(what, hint="exp_of(...) is an unbiased exponential; keep log inside an expect")
    )


def expect(program: Callable[..., Any], *args: Any) -> Estimate:
    """An estimate of the expected value of ``program(*args)``, with noise of its own.

    What is chosen inside it does not see what happens outside: the scores of its choices weigh its
    own value only.
    """
    outer = current()
    surrogate = outer.decide("expect", lambda: outer.nested(lambda: program(*args)).surrogate())
    return Estimate(surrogate, frozenset([object()]))


def over(program: Callable[..., Any], *rows: Tensor, size: int | None = None) -> Estimate:
    """The sum of ``program(*row)`` over ``size`` data, of which these rows are a random part.

    Each row has a lane of its own, so that a choice weighs, enumerates or compares only what
    follows in its row.

    Args:
        rows: tensors [n, ...]; the program gets one entry of each.
        size: of the whole data set; n unless said.

    Errors:
        ObjectiveError: there are no rows, not as many of each tensor, or more than ``size``.
    """
    outer = current()
    lengths = {len(row) for row in rows}
    if len(lengths) != 1 or 0 in lengths:
        found = ", ".join(map(str, sorted(lengths))) or "none"
        what = f"over needs rows, as many of each tensor; it got {found}"
        raise ObjectiveError(located(what, hint="leave out empty batches"))
    n = lengths.pop()
    if size is not None and size < n:
        what = f"over is given {n} rows of a data set of {size}"
        raise ObjectiveError(located(what, hint="size= is that of the whole data set"))

    met: list[tuple[str, Baseline]] = []

    def lane(*row: Tensor) -> tuple[Tensor, ...]:
        notes = Notes(runs=outer.notes.runs)
        value = outer.nested(lambda: program(*row), notes).surrogate()
        outer.notes.runs = notes.runs
        met[:] = [(site, baseline) for site, baseline, _ in notes.costs]
        return (value, *(cost for _, _, cost in notes.costs))  # costs leave the lanes as results

    def make() -> Tensor:
        each, *costs = run_batched(lane, rows, (True,) * len(rows), n)
        outer.notes.costs += [(*about, cost) for about, cost in zip(met, costs, strict=True)]
        total: Tensor = each.sum() * ((size or n) / n)
        return total

    return Estimate(outer.decide("over", make), frozenset([object()]))


def exp_of(program: Callable[..., Any], *args: Any, rate: float = 1.0) -> Estimate:
    """An unbiased estimate of exp(E[X]), X the value of ``program(*args)``: the Poisson estimator.

    exp(rate) X_1 ... X_N / rate^N with N ~ Poisson(rate).  Its variance grows fast where X / rate
    is far from 1.

    Source: Wagner (1988); Beskos et al. (2006).
    """
    outer = current()

    def make() -> Tensor:
        count = int(outer.draw(dist.Poisson(torch.tensor(float(rate))), "exp_of"))
        value = torch.tensor(math.exp(rate), dtype=torch.get_default_dtype())
        for _ in range(count):
            value = value * outer.nested(lambda: program(*args)).surrogate() / rate
        return value

    return Estimate(outer.decide("exp_of", make), frozenset([object()]))
