"""Starting points of chains and guides, drawn through the effects."""

from __future__ import annotations

from collections.abc import Callable

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import InitializationError, SupportError, located
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.mixed_density import MixedDensity
from ...ppl.interpretations.starts import initial


def starting_points(density: LogDensity, chains: int, radius: float = 2.0) -> Tensor:
    """Points [chains, d] of finite log density and gradient, uniform in a box about the origin."""
    return _uniform(density, density, chains, radius)


def mixed_starting_points(
    density: MixedDensity, values: Callable[[], dict[str, Tensor]], chains: int, radius: float = 2.0
) -> Tensor:
    """Points [chains, d + m] of finite log density and gradient.

    ``values`` draws latents by name that have positive density.  A chain starts at the finite ones
    of a draw, and at continuous ones that are uniform in a box about the origin, or else those of
    the draw.

    Errors:
        InitializationError: neither will do, for ``DRAWN`` draws; and those of ``values``, at once.
    """

    def started(drawn: dict[str, Tensor]) -> Tensor:
        numbers = density.numbers(drawn)
        at = density.at(torch.cat([numbers.new_zeros(density.size), numbers]))
        try:
            u = _uniform(at, at, 1, radius, BOXED)[0]
        except InitializationError as error:
            u = _at_values(at, drawn, error)
        return torch.cat([u, numbers])

    def tried() -> Tensor:
        for _ in range(DRAWN):
            drawn = values()
            try:
                return started(drawn)
            except InitializationError as error:
                last = error
        what = f"no start at the finite latents of {DRAWN} runs from the prior"
        raise InitializationError(f"{what}; at the last: {last}") from last

    return torch.stack([tried() for _ in range(chains)])


DRAWN, BOXED = 5, 20  # draws from the prior, and retries in the box for each


def _at_values(density: LogDensity, values: dict[str, Tensor], error: Exception) -> Tensor:
    """The point [d] of these values, if the density and its gradient are finite; or the error."""
    try:
        u = density.layout.pack({block.name: values[block.name] for block in density.layout.blocks})
    except SupportError:
        raise error from None
    gradient, value = torch.func.grad_and_value(density)(u)
    if not bool(value.isfinite() & gradient.isfinite().all()):
        raise error
    return u


def completed(density: LogDensity, given: Tensor, radius: float = 2.0) -> Tensor:
    """Points [chains, d] of finite log density and gradient, with given coordinates.

    Those that are NaN in ``given`` [chains, d] are uniform in a box about the origin.

    Errors:
        InitializationError: a chain would start where the log density or its gradient is not
            finite, whatever these others are.
    """
    starts = torch.stack([_filled(density, row, i, radius) for i, row in enumerate(given)])
    gradient, value = torch.func.vmap(torch.func.grad_and_value(density))(starts)
    bad = ~(value.isfinite() & gradient.isfinite().all(-1))
    for chain in torch.nonzero(bad).flatten().tolist():
        of = "gradient" if bool(value[chain].isfinite()) else "log density"
        what = f"the {of} of chain {chain} is not finite where it is to start"
        hint = "start within the support of the posterior"
        raise InitializationError(located(f"{what}: {density.blame(starts[chain])}", hint=hint))
    return starts


def _filled(density: LogDensity, given: Tensor, chain: int, radius: float) -> Tensor:
    """The point [d] with these coordinates, and such others in place of NaN that it may start."""
    left = given.isnan()
    if not bool(left.any()):
        return given
    try:
        at = _uniform(density, lambda u: density(torch.where(left, u, given)), 1, radius)
    except InitializationError as error:
        raise InitializationError(f"chain {chain} has no start at its values: {error}") from error
    return torch.where(left, at[0], given)


def _uniform(
    density: LogDensity,
    to_be_finite: Callable[[Tensor], Tensor],
    chains: int,
    radius: float,
    retries: int = 100,
) -> Tensor:
    dtype = density.layout.dtype
    bound = torch.tensor(radius, dtype=dtype)

    def draw_uniform(shape: tuple[int, ...]) -> Tensor:
        return draw(dist.Uniform(-bound, bound), shape, label="start").to(dtype)

    return initial(
        density.layout, to_be_finite, chains, draw_uniform, radius, retries, density.blame
    )
