"""Matrices without the decomposition that is asked for: no density there, and no end of a run.

torch raises where a matrix has no Cholesky factor, inverse or spectrum.  In a density that runs in
lanes this would end all of them for one.  Here such a matrix decomposes into NaN instead; what is
computed from it is NaN, and the density of that lane alone counts as zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..errors import ProgramError, located, user_line
from .abstract_tensor import marks_of

Call = Callable[..., Any]

# The name, among the statistics of a run, of the number of points where the density was zero so.
NO_DECOMPOSITION = "points_without_decomposition"


class Decomposing(TorchFunctionMode):
    """Within, a matrix that torch cannot decompose gives NaN, and raises nothing.

    ``met``: the decompositions that were asked for, and where.  In an ``abstract`` run, of which no
    number is looked at, what comes of a placeholder is left to torch.

    Errors:
        ProgramError: in an abstract run, a matrix of data alone has no decomposition.
    """

    def __init__(self, *, abstract: bool = False) -> None:
        super().__init__()
        self.abstract = abstract
        self.met: dict[str, str] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "").removeprefix("linalg_")
        lenient = _LENIENT.get(name)
        if lenient is None or not isinstance(args[0] if args else None, Tensor):
            return func(*args, **kwargs)
        self.met.setdefault(name, user_line())
        if self.abstract and not marks_of((args, kwargs)):
            with _named():
                return func(*args, **kwargs)
        result, bad, rank = lenient(func, *args, **kwargs)
        return result if self.abstract else _poisoned(result, bad, rank)


@contextmanager
def _named() -> Iterator[None]:
    """Within, a matrix that cannot be decomposed is a named error."""
    try:
        yield
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        what = f"a matrix that no choice changes cannot be decomposed: {error}"
        hint = "check the data that it is made of; a covariance may want more on its diagonal"
        raise ProgramError(located(what, hint=hint)) from error


def _poisoned(result: Any, bad: Tensor, rank: int | None) -> Any:
    """NaN where a matrix was bad; ``rank`` dims of a floating part follow the batch."""
    if isinstance(result, tuple):
        return tuple(_poisoned(part, bad, rank) for part in result)
    if not (result.is_floating_point() or result.is_complex()):
        return result
    dims = result.ndim - bad.ndim if rank is None else rank
    return torch.where(bad.reshape(*bad.shape, *(1,) * dims), torch.nan, result)


def _cholesky(func: Call, a: Tensor, upper: bool = False) -> tuple[Any, Tensor, int | None]:
    factor, info = torch.linalg.cholesky_ex(a, upper=upper)
    return factor, info != 0, None


def _inverse(func: Call, a: Tensor) -> tuple[Any, Tensor, int | None]:
    inverse, info = torch.linalg.inv_ex(a)
    return inverse, info != 0, None


def _power(func: Call, a: Tensor, n: int) -> tuple[Any, Tensor, int | None]:
    if n >= 0:
        return func(a, n), torch.zeros_like(a[..., 0, 0], dtype=torch.bool), None
    inverse, info = torch.linalg.inv_ex(a)
    return func(inverse, -n), info != 0, None


def _solution(
    func: Call, a: Tensor, b: Tensor, *, left: bool = True
) -> tuple[Any, Tensor, int | None]:
    """By factors: torch's ``solve_ex`` raises in lanes, whatever it is told."""
    factors, pivots, info = torch.linalg.lu_factor_ex(a)
    vector = b.ndim == 1 or (b.ndim == a.ndim - 1 and b.shape == a.shape[:-1])
    columns = b.unsqueeze(-1) if vector else b
    solution = torch.linalg.lu_solve(factors, pivots, columns, left=left)
    return solution.squeeze(-1) if vector else solution, info != 0, 1 if vector else 2


def _factors(func: Call, a: Tensor, **options: Any) -> tuple[Any, Tensor, int | None]:
    factors, pivots, info = torch.linalg.lu_factor_ex(a, **options)
    return (factors, pivots), info != 0, None


def _spectrum(func: Call, a: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor, int | None]:
    """These fail on what is not finite."""
    bad = ~a.isfinite().all(-1).all(-1)
    identity = torch.eye(*a.shape[-2:], dtype=a.dtype, device=a.device)
    return func(torch.where(bad[..., None, None], identity, a), *args, **kwargs), bad, None


_LENIENT: dict[str, Callable[..., tuple[Any, Tensor, int | None]]] = {
    "cholesky": _cholesky,
    "inv": _inverse,
    "inverse": _inverse,
    "matrix_power": _power,
    "solve": _solution,
    "lu_factor": _factors,
    **dict.fromkeys(("eigh", "eigvalsh", "eig", "eigvals", "svd", "svdvals"), _spectrum),
    **dict.fromkeys(("pinv", "pinverse"), _spectrum),
}


# -------------------------------------------------------------------------------- where it happened


class Failures:
    """Who evaluates densities tells here where one was zero for want of a decomposition."""

    def __init__(self) -> None:
        self._open: list[list[Tensor]] = []

    @contextmanager
    def collected(self) -> Iterator[list[Tensor]]:
        """Within, what is told is collected; of several collectors the innermost hears it."""
        found: list[Tensor] = []
        self._open.append(found)
        try:
            yield found
        finally:
            self._open.pop()

    def tell(self, failed: Tensor) -> None:
        """Tell where, a truth value or 0 and 1 for each evaluation."""
        if self._open:
            self._open[-1].append(failed)


IN_LANES = Failures()  # single lanes, while a density is being traced
OF_BATCHES = Failures()  # all chains or particles, while it is being run
