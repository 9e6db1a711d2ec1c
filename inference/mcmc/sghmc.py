"""Stochastic-gradient Hamiltonian Monte Carlo, with scales that burn-in learns; it has a bias.

Chen, Fox and Guestrin, arXiv 1402.4102; scales as by Springenberg, Klein, Falkner and Hutter,
"Bayesian optimization with robust Bayesian neural networks" (NeurIPS 2016).

With g an unbiased estimate of the gradient of -log pi, rate l, friction c, inverse masses M^-1, a
transition is

    r' = (1 - c) r - l^2 M^-1 g + N(0, max(2 l^2 c M^-1 - l^4, 1e-16)),   x' = x + r'.

Nothing is accepted or rejected, so that the stationary law is not pi: its error is of the order of
l^2 M^-1 times the curvature of -log pi, and of the noise of g over c.  ``check.invariant`` finds it
in one step; a run says its size by Stein's identity, Cov(x_i, g_i) = 1, which holds under pi.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl import draw
from ...ppl.errors import located
from ...ppl.tasks.checkpoint import Store, random_state, restore_random_state
from .adaptation import Samples, Watcher, require_finite
from .hamiltonian import Kernel, Parameters, Potential

EPS = 1e-10  # beside the root of a mean square
LEAST = 1e-16  # of a variance of noise


class Moving(NamedTuple):
    """Chains with their momenta: log_density [chains], all else [chains, d]."""

    position: Tensor
    log_density: Tensor
    gradient: Tensor
    momentum: Tensor


class Scales(NamedTuple):
    """Of gradients g, as averages over the last ``window`` of them: all [chains, d]."""

    window: Tensor
    mean: Tensor
    square: Tensor

    @property
    def inverse_mass(self) -> Tensor:
        """1 / (sqrt(square) + eps)."""
        return 1.0 / (self.square.sqrt() + EPS)


class SGHMCInfo(NamedTuple):
    """What one transition did, each [chains]; all moves are made."""

    acceptance_rate: Tensor
    diverging: Tensor


def init(position: Tensor, potential: Potential) -> Moving:
    """Chains at rest at ``position`` [chains, d]."""
    return Moving(position, *potential(position), torch.zeros_like(position))


def scales_init(like: Tensor) -> Scales:
    """What is known of gradients [chains, d] before the first: all are one."""
    return Scales(*(torch.ones_like(like) for _ in Scales._fields))


def scales_update(scales: Scales, slope: Tensor) -> Scales:
    """Learn from a gradient of -log pi [chains, d]: windows grow where the mean gradient is small.

    The newest counts by 1 / (window + 1), of the window as it was.
    """
    window, mean, square = scales
    share = 1.0 / (window + 1.0)
    return Scales(
        window + 1.0 - window * mean.square() / (square + EPS),
        mean + share * (slope - mean),
        square + share * (slope.square() - square),
    )


def moved(
    state: Moving, potential: Potential, parameters: Parameters, friction: float, noise: Tensor
) -> Moving:
    """The state after one transition with this noise [chains, d], standard normal.

    Coordinates without inverse mass stay where they are.
    """
    squared = parameters.step_size[..., None].square()
    pull = squared * parameters.inverse_mass
    variance = (2.0 * friction * pull - squared.square()).clamp(min=LEAST)
    variance = torch.where(parameters.inverse_mass > 0.0, variance, 0.0)
    momentum = (1.0 - friction) * state.momentum + pull * state.gradient + variance.sqrt() * noise
    position = state.position + momentum
    return Moving(position, *potential(position), momentum)


def step(
    state: Moving, potential: Potential, parameters: Parameters, *, friction: float
) -> tuple[Moving, SGHMCInfo]:
    """One transition, whose step size is the rate, and whose metric stays as it is."""
    zero, one = state.position.new_zeros(()), state.position.new_ones(())
    noise = draw(dist.Normal(zero, one, validate_args=False), state.position.shape)
    state = moved(state, potential, parameters, friction, noise)
    diverging = ~(state.log_density.isfinite() & state.gradient.isfinite().all(-1))
    return state, SGHMCInfo(torch.ones_like(state.log_density), diverging)


def sghmc(rate: float = 0.01, friction: float = 0.01) -> Kernel:
    """The kernel of this rate and friction, whose burn-in learns a scale for each coordinate.

    Its draws have a bias, of which a fit tells in ``report``; run it again at half the rate to see
    what changes.  It is for gradients from batches of data (``SGMCMC``) and for networks; where the
    whole gradient is at hand ``nuts()`` is exact.

    Args:
        rate: l above, of the order of the step of a coordinate over the root of its scale.
        friction: c above, in (0, 1].

    Errors:
        ValueError: one is out of its range.
    """
    if not rate > 0.0:
        raise ValueError(f"sghmc: the rate is positive, not {rate}")
    if not 0.0 < friction <= 1.0:
        raise ValueError(f"sghmc: friction lies in (0, 1], not {friction}")
    move: Callable[..., Any] = partial(step, friction=friction)
    run = partial(sample_sghmc, rate=rate)
    return Kernel(init, move, "SGHMC", sample=run)  # type: ignore[arg-type]


class Virial(NamedTuple):
    """Sums over transitions, in float64, of x, g and x g, each [chains, d], g the slope at x."""

    n: int
    x: Tensor
    g: Tensor
    product: Tensor

    def added(self, state: Moving) -> Virial:
        x, g = state.position.double(), -state.gradient.double()
        return Virial(self.n + 1, self.x + x, self.g + g, self.product + x * g)

    @property
    def covariance(self) -> Tensor:
        """Cov(x_i, g_i) [d] over all chains, which is 1 for draws of pi."""
        n = self.n * len(self.x)
        found: Tensor = self.product.sum(0) / n - self.x.sum(0) * self.g.sum(0) / n**2
        return found

    def said(self) -> str:
        if not self.n:
            return "SGHMC has a bias: nothing was drawn to tell its size"
        low, middle, high = self.covariance.quantile(
            torch.tensor([0.05, 0.5, 0.95], dtype=torch.float64, device=self.x.device)
        ).tolist()
        return (
            "SGHMC has a bias: the covariance of a coordinate with the slope of -log density, 1 for"
            f" the posterior, is {middle:.2f} (90 % of coordinates: {low:.2f} to {high:.2f})"
        )


class Run(NamedTuple):
    """A run between two transitions."""

    done: int
    state: Moving
    scales: Scales
    virial: Virial


def sample_sghmc(
    kernel: Kernel,
    potential: Potential,
    u0: Tensor,
    warmup: int,
    draws: int,
    *,
    rate: float,
    parameters: Parameters | None = None,
    target: float = 0.0,
    thin: int = 1,
    progress: Watcher | None = None,
    store: Store | None = None,
    besides: Callable[[], dict[str, Tensor]] | None = None,
    after: Callable[[int, Moving], Moving] | None = None,
    still: Tensor | None = None,
) -> Samples:
    """Burn-in of so many transitions, in which scales are learnt, and draws: each ``thin``-th.

    As ``adaptation.sample``, but only what is kept is held in memory, and there is no acceptance
    that could aim at ``target``.

    Args:
        after: what to do to the state after each transition, numbered from 1: other kernels.
        still: which coordinates [d] only these move.

    Errors:
        FloatingPointError: a log density or gradient is not finite; it names the transition.
        InitializationError: it is so at a start.
    """
    state = kernel.init(u0, potential)
    require_finite(state)
    at = Run(0, state, scales_init(u0), _no_virial(u0))  # type: ignore[arg-type]
    rows, interrupted = list[dict[str, Tensor]](), False
    of_rate = u0.new_tensor(rate)
    held = torch.zeros_like(u0[0], dtype=torch.bool) if still is None else still
    learnt = parameters or Parameters(of_rate, at.scales.inverse_mass.masked_fill(held, 0.0))
    if store is not None and store.content is not None:
        at, learnt, rows = _restored(store.content)
    total = warmup + draws * thin
    try:
        while at.done < total:
            if at.done < warmup:
                scales = scales_update(at.scales, -at.state.gradient)
                inverse_mass = scales.inverse_mass.masked_fill(held, 0.0)
                at, learnt = at._replace(scales=scales), Parameters(of_rate, inverse_mass)
            moving: Any
            moving, info = kernel.step(at.state, potential, learnt)  # type: ignore[arg-type]
            done = at.done + 1
            if bool(info.diverging.any()):
                what = f"SGHMC: the log density is not finite after transition {done}"
                raise FloatingPointError(located(what, hint="take a smaller rate, or scale data"))
            if after is not None:
                moving = after(done, moving)
            at = at._replace(done=done, state=moving)
            more = besides() if besides is not None else {}
            if done > warmup:
                at = at._replace(virial=at.virial.added(at.state))
                if (done - warmup) % thin == 0:
                    kept = {"position": at.state.position, "lp": at.state.log_density}
                    rows.append({**kept, **info._asdict(), **more})
            if store is not None:
                store.offer(partial(_content, at, learnt, rows))
            if progress is not None:
                progress(done, total, info, learnt)
        if store is not None:
            store.write(_content(at, learnt, rows))
    except KeyboardInterrupt:
        interrupted = True
    return _gathered(at, learnt, rows, interrupted)


def _no_virial(u: Tensor) -> Virial:
    zero = torch.zeros_like(u, dtype=torch.float64)
    return Virial(0, zero, zero, zero)


def _content(at: Run, learnt: Parameters, rows: list[dict[str, Tensor]]) -> dict[str, Any]:
    """A run as plain values, with the state of the generator."""
    parts = {"state": at.state, "scales": at.scales, "virial": at.virial}
    plain = {name: list(part) for name, part in parts.items()}
    plain |= {"learnt": [learnt.step_size, learnt.inverse_mass]}
    return {**plain, "done": at.done, "rows": rows, "random": random_state()}


def _restored(content: dict[str, Any]) -> tuple[Run, Parameters, list[dict[str, Tensor]]]:
    restore_random_state(content["random"])
    state, scales = Moving(*content["state"]), Scales(*content["scales"])
    at = Run(content["done"], state, scales, Virial(*content["virial"]))
    return at, Parameters(*content["learnt"]), content["rows"]


def _gathered(
    at: Run, learnt: Parameters, rows: list[dict[str, Tensor]], interrupted: bool
) -> Samples:
    state: Any = at.state
    chains, d = at.state.position.shape
    if not rows:
        none = at.state.position.new_empty((chains, 0, d))
        return Samples(none, {}, state, learnt, interrupted)
    stats = {name: torch.stack([row[name] for row in rows], 1) for name in rows[0]}
    positions = stats.pop("position")
    stats["step_size"] = learnt.step_size.expand(positions.shape[:2])
    said = (at.virial.said(),)
    return Samples(positions, stats, state, learnt, interrupted, report=said, notes=said)
