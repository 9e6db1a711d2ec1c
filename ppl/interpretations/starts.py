"""Starting points of chains, and what is said where none is found."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import InitializationError, located
from .layout import Layout, shown

NANS = 10  # so many starts of no density but NaN are no accident

Blame = Callable[[Tensor], str] | None  # says which sites are at fault at a point


def initial(
    layout: Layout,
    log_density: Callable[[Tensor], Tensor],
    chains: int,
    draw_uniform: Callable[[tuple[int, ...]], Tensor],
    radius: float = 2.0,
    retries: int = 100,
    blame: Blame = None,
) -> Tensor:
    """Starting points [chains, d] where ``log_density`` and its gradient are finite.

    ``log_density`` takes one vector [d] and must work under ``torch.func.vmap``;
    ``draw_uniform(shape)`` draws from [-radius, radius].  Chains that fail draw again, at most
    ``retries`` times; every chain consumes its own draws whether the others fail or not.
    ``blame(u)`` may say which sites are at fault at ``u``.  NaN is a failure like another (a
    differential equation may overflow far from the data), but a chain that meets nothing else has a
    mistake in its model.

    Errors:
        InitializationError: after ``NANS`` tries if a chain's log density was NaN in all of them,
            and after the retries if some chain has no point with a finite log density and gradient.
    """
    value_and_grad = torch.func.vmap(torch.func.grad_and_value(log_density))
    u = draw_uniform((chains, layout.size))
    failing = torch.arange(chains, device=u.device)
    met_nan: tuple[Tensor, int] | None = None
    only_nan = torch.ones(chains, dtype=torch.bool, device=u.device)
    for attempt in range(retries + 1):
        if attempt:
            u = u.index_copy(0, failing, draw_uniform((chains, layout.size))[failing])
        gradient, value = value_and_grad(u[failing])
        nan = torch.isnan(value)
        only_nan = only_nan.index_copy(0, failing, only_nan[failing] & nan)
        if met_nan is None and bool(nan.any()):
            met_nan = u[failing][nan][0], int(failing[nan][0])
        hopeless = only_nan[failing]
        if attempt + 1 >= min(NANS, retries + 1) and bool(hopeless.any()):
            raise _nan_error(layout, u[failing][hopeless][0], int(failing[hopeless][0]), blame)
        bad = ~(torch.isfinite(value) & torch.isfinite(gradient).all(-1))
        failing = failing[bad]
        if len(failing) == 0:
            return u
        last = u[failing[0]], value[bad][0], gradient[bad][0]
    if met_nan is not None:
        raise _nan_error(layout, *met_nan, blame)
    where = f"within {radius:g} of the origin for {len(failing)} of {chains} chains"
    raise _failed_error(layout, *last, f"{where} after {retries + 1} tries", blame)


def _nan_error(layout: Layout, u: Tensor, chain: int, blame: Blame) -> InitializationError:
    culprit = blame(u) if blame else f"at {_point(layout, u)}"
    what = f"the log density of chain {chain} is NaN: {culprit}"
    hint = "NaN is a mistake in the model (0 * inf, inf - inf, a negative scale), not a bad start"
    return InitializationError(located(what, hint=hint))


def _failed_error(
    layout: Layout, u: Tensor, value: Tensor, gradient: Tensor, where: str, blame: Blame
) -> InitializationError:
    if bool(torch.isfinite(value)):
        coordinates = torch.nonzero(~torch.isfinite(gradient)).flatten().tolist()
        sites = ", ".join(f"'{s}'" for s in dict.fromkeys(map(layout.site_of, coordinates)))
        failure = f"the gradient of the log density is not finite in {sites}"
    else:
        failure = f"the log density is {value.item():g}"
    culprit = f"{blame(u)}; " if blame else ""
    what = f"no starting point {where}: {failure}; {culprit}last tried {_point(layout, u)}"
    hint = "check that data and scales fit the model, and that the prior allows such data"
    return InitializationError(located(what, hint=hint))


def _point(layout: Layout, u: Tensor) -> str:
    """The constrained values at ``u``, for messages."""
    values, _ = layout.unpack(u)
    return ", ".join(f"{name} = {shown(value)}" for name, value in values.items()) or "no latents"
