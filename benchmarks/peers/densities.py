"""Log densities of the eight posteriors up to constants, Jacobians included: see posteriors.py.

Written once, for ``jax.numpy`` and for PyTensor: ``xp`` is either, as made below.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from peers.posteriors import LV_STEPS, data


def normal(xp: Any, x: Any, mean: Any, sd: Any) -> Any:
    return -xp.sum(0.5 * ((x - mean) / sd) ** 2 + xp.log(sd))


def log_sigmoid(xp: Any, u: Any) -> Any:
    return -xp.logaddexp(0.0, -u)


def eight(xp: Any, u: Any, d: Any) -> Any:
    mu, tau, z = u[0], xp.exp(u[1]), u[2:]
    prior = -0.5 * xp.sum(z**2) - 0.5 * (mu / 5) ** 2 - xp.log1p((tau / 5) ** 2) + u[1]
    return prior - 0.5 * xp.sum(((d.y - mu - tau * z) / d.sigma) ** 2)


def radon(xp: Any, u: Any, d: Any) -> Any:
    spread, sigma, z = xp.exp(u[3]), xp.exp(u[4]), u[5:]
    alpha = u[0] + spread * z
    prior = -0.5 * xp.sum(z**2) - 0.5 * xp.sum((u[:3] / 10) ** 2) - 0.5 * (spread**2 + sigma**2)
    error = d.y - alpha[d.county] - d.uranium * u[1] - d.floor * u[2]
    return prior + u[3] + u[4] - 0.5 * xp.sum(error**2) / sigma**2 - len(d.y) * u[4]


def wells(xp: Any, u: Any, d: Any) -> Any:
    logit = u[0] + xp.dot(d.X, u[1:])
    return xp.sum(d.y * logit - xp.logaddexp(0.0, logit))


def gp(xp: Any, u: Any, d: Any) -> Any:
    rho, alpha, z = xp.exp(u[0]), xp.exp(u[1]), u[2:]
    apart = (d.x[:, None] - d.x) / rho
    C = alpha**2 * xp.exp(-0.5 * apart**2) + 1e-10 * np.eye(len(d.x))
    f = xp.dot(xp.linalg.cholesky(C), z)
    prior = 25 * u[0] - 4 * rho - alpha**2 / 8 + u[1] - 0.5 * xp.sum(z**2)
    return prior + xp.sum(d.k * f - xp.exp(f))


def ark(xp: Any, u: Any, d: Any) -> Any:
    sigma = xp.exp(u[6])
    prior = -0.5 * xp.sum((u[:6] / 10) ** 2) - xp.log1p((sigma / 2.5) ** 2) + u[6]
    error = d.y - u[0] - xp.dot(d.past, u[1:6])
    return prior - 0.5 * xp.sum(error**2) / sigma**2 - len(d.y) * u[6]


def garch(xp: Any, u: Any, d: Any) -> Any:
    mu, alpha0, stick = u[0], xp.exp(u[1]), u[2] - np.log(2)
    alpha1 = xp.exp(log_sigmoid(xp, stick))
    beta1 = (1 - alpha1) * xp.exp(log_sigmoid(xp, u[3]))
    first = np.array(d.sigma1**2)

    def step(v: Any, square: Any, alpha0: Any, alpha1: Any, beta1: Any) -> Any:
        return (alpha0 + alpha1 * square + beta1 * v,)

    squares, constants = (d.y - mu) ** 2, (alpha0, alpha1, beta1)
    (later,) = xp.repeated(step, constants, (xp.asarray(first),), squares[:-1])
    v = xp.concatenate([xp.asarray(first[None]), later])
    jacobian = log_sigmoid(xp, stick) + 2 * log_sigmoid(xp, -stick) + u[1]
    jacobian += log_sigmoid(xp, u[3]) + log_sigmoid(xp, -u[3])
    return jacobian - 0.5 * xp.sum(squares / v + xp.log(v))


def mix(xp: Any, u: Any, d: Any) -> Any:
    low, high, s1, s2 = u[0], u[0] + xp.exp(u[1]), xp.exp(u[2]), xp.exp(u[3])
    first, second = log_sigmoid(xp, u[4]), log_sigmoid(xp, -u[4])
    prior = 5 * (first + second) + u[1] + u[2] + u[3] - (low**2 + high**2 + s1**2 + s2**2) / 8
    in_first = first - u[2] - 0.5 * ((d.y - low) / s1) ** 2
    in_second = second - u[3] - 0.5 * ((d.y - high) / s2) ** 2
    return prior + xp.sum(xp.logaddexp(in_first, in_second))


def lv(xp: Any, u: Any, d: Any) -> Any:
    theta, sigma, h = xp.exp(u[:4]), xp.exp(u[6:]), 1 / LV_STEPS

    def step(x: Any, y: Any, a: Any, b: Any, c: Any, e: Any) -> Any:
        def slope(x: Any, y: Any) -> Any:
            return (a - b * y) * x, (e * x - c) * y

        k1, l1 = slope(x, y)
        k2, l2 = slope(x + h / 2 * k1, y + h / 2 * l1)
        k3, l3 = slope(x + h / 2 * k2, y + h / 2 * l2)
        k4, l4 = slope(x + h * k3, y + h * l3)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), y + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)

    constants, first = [theta[i] for i in range(4)], (xp.exp(u[4]), xp.exp(u[5]))
    path = xp.repeated(step, constants, first, times=d.years * LV_STEPS)
    z = xp.stack([x[LV_STEPS - 1 :: LV_STEPS] for x in path], 1)
    mean, sd = np.array([1, 0.05, 1, 0.05]), np.array([0.5, 0.05, 0.5, 0.05])
    prior = xp.sum(u[:4]) - 0.5 * xp.sum(((theta - mean) / sd) ** 2)
    prior -= 0.5 * xp.sum((u[4:6] - np.log(10)) ** 2) + 0.5 * xp.sum((u[6:] + 1) ** 2)
    return prior + normal(xp, d.first, u[4:6], sigma) + normal(xp, d.y, xp.log(z), sigma)


def with_jax() -> SimpleNamespace:
    """``jax.numpy`` in float64, and loops that keep what each step gives."""
    import jax

    jax.config.update("jax_enable_x64", True)

    def repeated(step: Any, constants: Any, first: Any, xs: Any = None, times: Any = None) -> Any:
        def both(state: Any, x: Any) -> Any:
            state = step(*state, *(() if x is None else (x,)), *constants)
            return state, state

        return jax.lax.scan(both, first, xs, length=times)[1]

    return SimpleNamespace(**vars(jax.numpy), repeated=repeated)


def with_pytensor() -> SimpleNamespace:
    """The same of PyTensor."""
    import pytensor
    import pytensor.tensor as pt

    def repeated(step: Any, constants: Any, first: Any, xs: Any = None, times: Any = None) -> Any:
        states = slice(0, len(first)) if xs is None else slice(1, 1 + len(first))

        def turned(*given: Any) -> Any:  # PyTensor gives the input first
            return list(step(*given[states], *given[: states.start], *given[states.stop :]))

        found = pytensor.scan(
            turned,
            sequences=[] if xs is None else [xs],
            outputs_info=list(first),
            non_sequences=list(constants),
            n_steps=times,
            strict=True,
            return_updates=False,
        )
        return found if isinstance(found, list | tuple) else [found]

    return SimpleNamespace(**vars(pt), asarray=pt.as_tensor, repeated=repeated)


def log_density(name: str, xp: Any) -> Callable[[Any], Any]:
    """The log density of a posterior as a function of one vector."""
    density, given = globals()[name], data(name)
    return lambda u: density(xp, u, given)
