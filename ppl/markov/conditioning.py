"""What is known of a path from normal factors on its states: a Gaussian Markov law again.

A factor on x_t is exp(e^T d - d^T L d / 2 + c), d = x_t - z.  Filtering goes forward, by a loop or
as a scan of an associative operation on the laws of x_t given x_s and of what is seen in between
given x_s; the law of each state given the next one then is a chain that runs backward.

Source: Sarkka, Garcia-Fernandez, Temporal parallelization of Bayesian smoothers (IEEE Transactions
on Automatic Control 66, 2021); log masses and the factors' form are worked out here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import DataError, NumericalError, ProgramError, located
from ..language.combinators import scan
from ..tensors.hidden import is_known
from .associative import Element, prefixes
from .law import GaussianMarkov, Method, require_method

_ONCE = "add up the sites, and condition the prior once"


class Sites(NamedTuple):
    """Factors exp(e^T d - d^T L d / 2 + c) on the states x of a path, d = x - z.

    precision: L [..., T, s, s], zero where nothing is seen; linear: e [..., T, s]; log_scale: c
    [..., T]; centre: z [..., T, s], from which a mass is told without loss where L is large.
    """

    precision: Tensor
    linear: Tensor
    log_scale: Tensor
    centre: Tensor


class Posterior(NamedTuple):
    """A law of paths given sites; the log mass [...] of both; means and covariances of states."""

    law: GaussianMarkov
    log_mass: Tensor
    mean: Tensor
    covariance: Tensor


def seen(precision: Tensor, linear: Tensor, through: Tensor) -> Sites:
    """Sites on f = H x, for H [r, s]: precision [..., T, r, r] and linear [..., T, r] of f."""
    whole, states = through.mT @ precision @ through, linear @ through
    return Sites(whole, states, torch.zeros_like(linear[..., 0]), torch.zeros_like(states))


def observed(y: Tensor, variance: Tensor, states: int) -> Sites:
    """Sites of y_t ~ N(x_t[0], variance); NaN is not seen.

    Args:
        y: [..., T]; variance: [...] or [..., T], positive; states: s.

    Errors:
        DataError: a variance is not positive, or a value is infinite.
    """
    if is_known(y) and bool(y.isinf().any()):
        raise DataError(located("a value is infinite", hint="what was not seen is NaN"))
    if is_known(variance) and not bool((variance > 0).all()):
        raise DataError(located("the variance of what is observed is positive"))
    there = ~y.isnan()
    precision = torch.where(there, 1 / variance, 0.0)
    normal = torch.where(there, -torch.log(2 * math.pi * variance) / 2, 0.0)
    first = torch.eye(states, dtype=y.dtype, device=y.device)[0]
    centre = y.nan_to_num()[..., None] * first
    whole = precision[..., None, None] * torch.outer(first, first)
    return Sites(whole, torch.zeros_like(centre), normal, centre)


def with_unseen(times: Tensor, sites: Sites, new: Tensor) -> tuple[Tensor, Sites, Tensor]:
    """Times [T + n] with ``new`` [n] among them, where nothing is seen, and the places of these.

    So a function is predicted before, between and after ``times`` [T], exactly.
    """
    order = torch.cat([times, new]).argsort(stable=True)

    def widened(x: Tensor, axis: int) -> Tensor:
        nothing = x.new_zeros(*x.shape[:axis], len(new), *x.shape[axis:][1:])
        return torch.cat([x, nothing], axis).index_select(axis, order)

    wide = Sites(*map(widened, sites, (-3, -2, -1, -2)))
    return torch.cat([times, new])[order], wide, order.argsort()[len(times) :]


def smoothed(law: GaussianMarkov, sites: Sites, method: Method = "scan") -> Posterior:
    """The posterior of a path, by a ``scan`` in logarithmic depth or by a ``loop`` over time.

    Errors:
        NumericalError: a filtered covariance is not positive definite; it names the time.
        ProgramError: the law is a posterior itself, or the sites are of another size.
    """
    require_method(method)
    if law.backward:
        raise ProgramError(located("a chain that runs backward is not conditioned", hint=_ONCE))
    batch = torch.broadcast_shapes(sites.precision.shape[:-3], sites.linear.shape[:-2])
    law = law.expand(torch.broadcast_shapes(law.batch_shape, batch))
    steps = law.transition, law.offset[..., None], law.covariance
    if sites.precision.shape[-3:] != (*law.event_shape, law.event_shape[-1]):
        had, fits = list(sites.precision.shape[-3:-1]), list(law.event_shape)
        raise ProgramError(located(f"sites of [times, states] {had} do not fit a chain of {fits}"))
    L, e, z = sites.precision, sites.linear[..., None], sites.centre[..., None]
    known = L, e + L @ z
    mean, covariance = (_filtered if method == "scan" else _filtered_by_loop)(steps, known)
    _require_positive(covariance)
    A, b, Q = steps
    before = (_delayed(mean), _delayed(covariance))
    predicted = A @ before[0] + b, A @ before[1] @ A.mT + Q
    log_mass = (_log_mass(predicted[0] - z, predicted[1], L, e) + sites.log_scale).sum(-1)
    back = _backward(steps, mean, covariance, predicted)
    after_mean, after_covariance = back.marginals(method)
    return Posterior(back, log_mass, after_mean, _symmetric(after_covariance))


def _filtered(steps: Element, known: Element) -> Element:
    """Means [..., T, s, 1] and covariances of x_t given sites up to t."""
    _, mean, covariance, _, _ = prefixes(_seen_then, _elements(steps, known))
    return mean, _symmetric(covariance)


def _elements(steps: Element, known: Element) -> Element:
    """x_t given x_(t-1) and site t: N(A x + b, C); and the site given x_(t-1), by (eta, J)."""
    (A, b, Q), (L, e) = steps, known
    M = torch.linalg.inv(_one_and(Q, L))  # (1 + Q L)^-1
    G = M @ A
    rest = e - L @ b
    return G, M @ (b + Q @ e), _symmetric(M @ Q), G.mT @ rest, _symmetric(G.mT @ L @ A)


def _seen_then(earlier: Element, later: Element) -> Element:
    """Both elements one after the other."""
    (A, b, C, eta, J), (A2, b2, C2, eta2, J2) = earlier, later
    D = torch.linalg.inv(_one_and(C, J2))
    forth, back = A2 @ D, (D @ A).mT
    return (
        forth @ A,
        forth @ (b + C @ eta2) + b2,
        forth @ C @ A2.mT + C2,
        back @ (eta2 - J2 @ b) + eta,
        back @ J2 @ A + J,
    )


def _filtered_by_loop(steps: Element, known: Element) -> Element:
    rows = tuple(x.movedim(-3, 0) for x in (*steps, *known))
    start = torch.zeros_like(rows[1][0]), torch.zeros_like(rows[2][0])

    def step(carry: Element, row: Element) -> tuple[Element, Element]:
        (mean, covariance), (A, b, Q, L, e) = carry, row
        mean, covariance = A @ mean + b, A @ covariance @ A.mT + Q
        M = torch.linalg.inv(_one_and(covariance, L))
        carry = M @ (mean + covariance @ e), _symmetric(M @ covariance)
        return carry, carry

    mean, covariance = scan(step)(start, rows)[1]
    return mean.movedim(0, -3), covariance.movedim(0, -3)


def _log_mass(d: Tensor, covariance: Tensor, L: Tensor, e: Tensor) -> Tensor:
    """log of the integral of N(x; d, covariance) exp(e^T x - x^T L x / 2): [..., T].

    Nothing large is taken from something large, as in e^T d - d^T L d / 2 with its correction.
    """
    spread = _one_and(covariance, L)
    left = torch.linalg.solve(spread, torch.cat([d, covariance @ e], -1))
    mean, gain = left[..., :1], left[..., 1:]
    exponent = (e.mT @ (mean + gain / 2) - d.mT @ L @ mean / 2)[..., 0, 0]
    mass: Tensor = exponent - torch.linalg.slogdet(spread).logabsdet / 2
    return mass


def _backward(
    steps: Element, mean: Tensor, covariance: Tensor, predicted: Element
) -> GaussianMarkov:
    """The chain of x_t given x_(t+1), from the last state to the first.

    Covariances are sums of squares, so that none is negative.
    """
    (A, _, Q), (ahead, spread) = ((x[..., 1:, :, :] for x in part) for part in (steps, predicted))
    here, C = mean[..., :-1, :, :], covariance[..., :-1, :, :]
    root, _ = torch.linalg.cholesky_ex(_symmetric(spread))
    E = torch.cholesky_solve(A @ C, root).mT
    left = torch.eye(C.shape[-1], dtype=C.dtype, device=C.device) - E @ A
    rest = left @ C @ left.mT + E @ Q @ E.mT
    last = mean[..., -1:, :, :], covariance[..., -1:, :, :]
    offset = torch.cat([here - E @ ahead, last[0]], -3)
    transition = torch.cat([E, torch.zeros_like(last[1])], -3)
    noise = torch.cat([_symmetric(rest), last[1]], -3)
    chain = transition.flip(-3), offset[..., 0].flip(-2), noise.flip(-3)
    return GaussianMarkov(*chain, backward=True)


def _require_positive(covariance: Tensor) -> None:
    """Raise unless filtered covariances are positive definite, as far as digits tell."""
    if not is_known(covariance):
        return
    own = covariance.detach().diagonal(dim1=-2, dim2=-1)
    scale = own.abs().clamp(min=torch.finfo(own.dtype).tiny).rsqrt()
    unit = scale[..., :, None] * covariance.detach() * scale[..., None, :]
    slack = torch.finfo(unit.dtype).eps ** 0.75
    _, info = torch.linalg.cholesky_ex(unit + slack * torch.eye(unit.shape[-1]).to(unit))
    if bool((wrong := (info > 0) | ~unit.isfinite().all(-1).all(-1)).any()):
        step = int(wrong.reshape(-1, wrong.shape[-1]).any(0).nonzero()[0])
        what = f"the filtered covariance at time index {step} is not positive definite"
        hint = "give sites of precision that is positive semidefinite, and no huge ones"
        raise NumericalError(located(what, hint=hint))


def _delayed(x: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(x[..., :1, :, :]), x[..., :-1, :, :]], -3)


def _one_and(C: Tensor, L: Tensor) -> Tensor:
    """1 + C L, whose eigenvalues are at least one."""
    return torch.eye(C.shape[-1], dtype=C.dtype, device=C.device) + C @ L


def _symmetric(x: Tensor) -> Tensor:
    return (x + x.mT) / 2
