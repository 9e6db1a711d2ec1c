"""Determinantal point processes, and least squares on the points that they choose.

For functions phi_1 .. phi_m, orthonormal under a measure mu, the projection process has the density
det(phi_j(x_i))^2 / m! of m ordered points under mu^m; every point alone follows the Christoffel law
nu = |phi|^2 mu / m, and points keep apart from each other.

Source: Nouy, Michel, Weighted least-squares approximation with determinantal point processes and
generalized volume sampling (arXiv 2312.14057); constants of its almost sure bounds are not used.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from pyro.distributions import TorchDistribution
from torch import Tensor
from torch.distributions import constraints

ORTHONORMAL = 1e-8


class Space(Protocol):
    """Functions that are orthonormal under a measure, and points of their Christoffel law.

    A space on an interval, whose measure is uniform, tells its ``ends``: else the process on it has
    no support that samplers of densities could use.
    """

    @property
    def m(self) -> int:
        """How many functions."""
        ...

    def phi(self, x: Tensor) -> Tensor:
        """Their values [n, m] at points [n, ...]."""
        ...

    def christoffel(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Points [n, ...] drawn independently from nu."""
        ...


def _random(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Legendre:
    """Polynomials of degree below m on [-1, 1], under dx / 2."""

    m: int
    ends: ClassVar[tuple[float, float]] = (-1.0, 1.0)

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError(f"a space has functions, not {self.m}")

    def phi(self, x: Tensor) -> Tensor:
        """[n, m] at points [n]."""
        values = [torch.ones_like(x), x]
        for j in range(1, self.m - 1):
            values.append(((2 * j + 1) * x * values[j] - j * values[j - 1]) / (j + 1))
        scale = torch.arange(self.m, dtype=x.dtype, device=x.device).mul(2).add(1).sqrt()
        return torch.stack(values[: self.m], -1) * scale

    def christoffel(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """By rejection from the arcsine law: phi_j^2 sqrt(1 - x^2) is at most 4 / pi."""
        degree = torch.randint(self.m, (n,), generator=generator)
        points, waiting = torch.zeros(n, dtype=torch.float64), torch.arange(n)
        while len(waiting):
            x = torch.cos(math.pi * _random(len(waiting), generator))
            square = self.phi(x).gather(1, degree[waiting, None])[:, 0] ** 2
            chance = math.pi / 4 * square * (1 - x**2).clamp(min=0).sqrt()
            accepted = _random(len(waiting), generator) < chance
            points[waiting[accepted]] = x[accepted]
            waiting = waiting[~accepted]
        return points


@dataclass(frozen=True)
class Fourier:
    """1, sqrt(2) cos(2 pi j x), sqrt(2) sin(2 pi j x), j = 1, 2, ... on [0, 1], m of them."""

    m: int
    ends: ClassVar[tuple[float, float]] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.m < 1:
            raise ValueError(f"a space has functions, not {self.m}")

    def phi(self, x: Tensor) -> Tensor:
        """[n, m] at points [n]."""
        frequency = torch.arange(1, self.m // 2 + 1, dtype=x.dtype, device=x.device)
        angle = 2 * math.pi * x[..., None] * frequency
        waves = math.sqrt(2) * torch.stack([angle.cos(), angle.sin()], -1).flatten(-2)
        return torch.cat([torch.ones_like(x)[..., None], waves], -1)[..., : self.m]

    def christoffel(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """By rejection from the uniform law."""
        found: list[Tensor] = []
        missing = n
        while missing:
            x = _random(2 * missing + 8, generator)
            chance = self.phi(x).square().sum(-1) / (2 * self.m)
            kept = x[_random(len(x), generator) < chance][:missing]
            found.append(kept)
            missing -= len(kept)
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)


class Finite:
    """Functions on finitely many points; points are their indices, int64.

    Args:
        values: of the functions [N, m].
        mass: of the points [N], summing to one; equal unless given.

    Errors:
        ValueError: sizes or masses are wrong.
        LinAlgError: the functions are linearly dependent where there is mass.

    Functions that are not orthonormal are made so, with a warning.
    """

    def __init__(self, values: Tensor, mass: Tensor | None = None) -> None:
        if values.ndim != 2 or not 1 <= values.shape[1] <= len(values):
            raise ValueError(f"[N, m] with N >= m >= 1 is expected, not {list(values.shape)}")
        values = values.double()
        if mass is None:
            mass = torch.full((len(values),), 1 / len(values), dtype=torch.float64)
        if mass.shape != values.shape[:1] or bool((mass < 0).any()):
            raise ValueError(f"masses {list(mass.shape)} of {len(values)} points, not negative")
        if abs(float(mass.sum()) - 1) > 1e-9:
            raise ValueError(f"the masses sum to {float(mass.sum())}, not to one")
        self.mass = mass.double()
        gram = values.T @ (self.mass[:, None] * values)
        rank = int(torch.linalg.matrix_rank(gram, hermitian=True))
        if rank < values.shape[1]:
            what = f"{values.shape[1]} functions have rank {rank} under the measure"
            raise torch.linalg.LinAlgError(what)  # type: ignore[attr-defined]
        eye = torch.eye(values.shape[1], dtype=torch.float64)
        if float((gram - eye).abs().max()) > ORTHONORMAL:
            warnings.warn("the functions are not orthonormal, and were made so", stacklevel=2)
            factor = torch.linalg.cholesky(gram)
            values = torch.linalg.solve_triangular(factor, values.T, upper=False).T
        self.values = values

    @property
    def m(self) -> int:
        """How many functions."""
        return int(self.values.shape[1])

    def phi(self, x: Tensor) -> Tensor:
        """[n, m] at indices [n]."""
        return self.values[x]

    def christoffel(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Indices [n]."""
        if n == 0:
            return torch.zeros(0, dtype=torch.int64)
        chances = self.mass * self.values.square().sum(1)
        return torch.multinomial(chances, n, replacement=True, generator=generator)


def conditional(space: Finite, chosen: list[int]) -> Tensor:
    """The law [N] of the next point of the process, after some: what a sampler draws from.

    (|phi|^2 - |projection on the chosen|^2) mass / (m - k).
    """
    left = space.values
    if chosen:
        basis = torch.linalg.qr(space.values[chosen].T).Q
        left = left - (left @ basis) @ basis.T
    chances = space.mass * left.square().sum(1)
    chances[chosen] = 0.0
    return chances / (space.m - len(chosen))


def draw_projection(space: Space, generator: torch.Generator | None = None) -> Tensor:
    """m points of the projection process, in the order of drawing.

    One point after another, with an orthonormal basis of what the last ones span; O(N m^2) for N
    points, and by rejection from the Christoffel law elsewhere, m / (m - k) tries for point k.
    """
    if isinstance(space, Finite):
        return _draw_finite(space, generator)
    points: list[Tensor] = []
    basis = torch.zeros(space.m, 0, dtype=torch.float64)
    while len(points) < space.m:
        x = space.christoffel(1, generator)
        phi = space.phi(x)[0]
        away = phi - basis @ (basis.T @ phi)
        away = away - basis @ (basis.T @ away)
        if float(_random(1, generator)) < float(away.square().sum() / phi.square().sum()):
            points.append(x[0])
            basis = torch.cat([basis, (away / away.norm())[:, None]], 1)
    return torch.stack(points)


def _draw_finite(space: Finite, generator: torch.Generator | None) -> Tensor:
    rooted = space.mass.sqrt()[:, None] * space.values
    leverage = rooted.square().sum(1)
    basis = torch.zeros(space.m, space.m, dtype=torch.float64)
    chosen = torch.zeros(space.m, dtype=torch.int64)
    for k in range(space.m):
        chosen[k] = torch.multinomial(leverage.clamp(min=0), 1, generator=generator)[0]
        away = space.values[chosen[k]]
        for _ in range(2):
            away = away - basis[:, :k] @ (basis[:, :k].T @ away)
        basis[:, k] = away / away.norm()
        leverage = leverage - (rooted @ basis[:, k]) ** 2
        leverage[chosen[: k + 1]] = 0.0
    return chosen


class ProjectionDPP(TorchDistribution):
    """The projection process of a space, as a distribution of m points in their order.

    ``log_prob`` is the density under Lebesgue's measure of the points, or, of a finite space, the
    mass of the indices; it is the same for all orders, and minus infinity for a point that comes
    twice or lies outside.  A finite space can be enumerated.
    """

    arg_constraints: dict[str, Any] = {}

    def __init__(self, space: Space, validate_args: bool | None = None) -> None:
        self.space = space
        super().__init__(torch.Size(), torch.Size((space.m,)), validate_args=validate_args)

    @property
    def has_enumerate_support(self) -> bool:  # type: ignore[override]
        return isinstance(self.space, Finite)

    @property
    def support(self) -> Any:
        if isinstance(self.space, Finite):
            last = len(self.space.mass) - 1
            return constraints.independent(constraints.integer_interval(0, last), 1)
        if not hasattr(self.space, "ends"):
            return constraints.dependent
        return constraints.independent(constraints.interval(*self.space.ends), 1)

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        count = torch.Size(sample_shape).numel()
        draws = torch.stack([draw_projection(self.space) for _ in range(count)])
        return draws.reshape(*sample_shape, self.space.m)

    def log_prob(self, value: Tensor) -> Tensor:
        phi = self.space.phi(value.flatten()).reshape(*value.shape, self.space.m)
        result = 2 * torch.linalg.slogdet(phi).logabsdet - math.lgamma(self.space.m + 1)
        if isinstance(self.space, Finite):
            result = result + self.space.mass[value].log().sum(-1)
        order = value.sort(-1).values
        never = (order[..., 1:] == order[..., :-1]).any(-1)
        if hasattr(self.space, "ends"):
            low, high = self.space.ends
            result = result - self.space.m * math.log(high - low)
            never = never | ((value < low) | (value > high)).any(-1)
        return torch.where(never, -math.inf, result)

    def enumerate_support(self, expand: bool = True) -> Tensor:
        assert isinstance(self.space, Finite)
        points = range(len(self.space.mass))
        return torch.tensor(list(itertools.permutations(points, self.space.m)))

    def expand(self, batch_shape: Any, _instance: Any = None) -> Any:
        if torch.Size(batch_shape) != torch.Size():
            raise NotImplementedError("ProjectionDPP has no batches")
        return self


Design = Literal["dpp", "repeated_dpp", "volume", "iid"]


def draw_design(
    space: Space, design: Design, n: int, generator: torch.Generator | None = None
) -> Tensor:
    """n points: of one or of n / m projection processes, or with one and n - m Christoffel points
    ("volume": the law nu^n, weighted by the determinant of the Gram matrix), or with none ("iid").

    Errors:
        ValueError: n does not fit the design.
    """
    m = space.m
    if design not in ("dpp", "repeated_dpp", "volume", "iid"):
        raise ValueError(f"the design is dpp, repeated_dpp, volume or iid, not {design!r}")
    if n < m or (design == "dpp" and n != m) or (design == "repeated_dpp" and n % m):
        raise ValueError(f"design {design!r} of {m} functions has no {n} points")
    if design == "iid":
        return space.christoffel(n, generator)
    draws = [draw_projection(space, generator) for _ in range(n // m if design != "volume" else 1)]
    if design == "volume":
        draws.append(space.christoffel(n - m, generator))
    points = torch.cat(draws)
    return points[torch.randperm(n, generator=generator)]


def weights_of(space: Space, x: Tensor) -> Tensor:
    """m / |phi(x)|^2 [n], by which squares are weighted."""
    return space.m / space.phi(x).square().sum(-1)


def gram_of(space: Space, x: Tensor) -> Tensor:
    """(1 / n) sum_i w_i phi(x_i) phi(x_i)^T [m, m], whose mean is the identity."""
    phi = space.phi(x)
    return phi.T @ (weights_of(space, x)[:, None] * phi) / len(x)


class OptimalLeastSquares:
    """Least squares in a space, weighted, on points of a design.

    Args:
        space: the functions.
        design: "repeated_dpp", "volume", "dpp" (interpolation) or "iid"; n: its points, 2 m (m for
            interpolation) unless given.
        delta: designs are drawn anew until the least eigenvalue of the Gram matrix is 1 - delta.
        max_tries: draws, at most.
        greedy: then take away points, for as long as it stays so and m are left.

    Attributes:
        coef_ [m]; points_, weights_; lambda_min_, the least eigenvalue; n_tries_.

    Errors:
        ValueError: a setting or a value is wrong.
        RuntimeError: no draw was stable.
    """

    def __init__(
        self,
        space: Space,
        design: Design = "repeated_dpp",
        n: int | None = None,
        delta: float = 0.9,
        max_tries: int = 100,
        greedy: bool = False,
    ) -> None:
        if not 0 < delta < 1 or max_tries < 1:
            raise ValueError(f"delta is in (0, 1), max_tries positive: {delta}, {max_tries}")
        self.space, self.design, self.delta = space, design, delta
        self.n = (space.m if design == "dpp" else 2 * space.m) if n is None else n
        self.max_tries, self.greedy = max_tries, greedy

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """Points [n] of a stable design."""
        self.n_tries_ = 0
        while self.n_tries_ < self.max_tries:
            self.n_tries_ += 1
            x = draw_design(self.space, self.design, self.n, generator)
            if self._least(x) >= 1 - self.delta:
                break
        else:
            d = self.delta + (1 - self.delta) * math.log(1 - self.delta)
            needed = math.ceil(self.space.m / d * math.log(2 * self.space.m))
            what = f"no stable design of {self.n} points in {self.max_tries} tries"
            raise RuntimeError(f"{what}; {needed} independent points are stable with chance 1/2")
        while self.greedy and len(x) > self.space.m:
            least, place = max(
                (self._least(torch.cat([x[:i], x[i + 1 :]])), i) for i in range(len(x))
            )
            if least < 1 - self.delta:
                break
            x = torch.cat([x[:place], x[place + 1 :]])
        self.points_, self.weights_ = x, weights_of(self.space, x)
        self.lambda_min_ = self._least(x)
        return x

    def _least(self, x: Tensor) -> float:
        return float(torch.linalg.eigvalsh(gram_of(self.space, x))[0])

    def fit(
        self, f: Callable[[Tensor], Tensor], generator: torch.Generator | None = None
    ) -> OptimalLeastSquares:
        """Draw a design, evaluate a function there, and fit it."""
        x = self.draw(generator)
        y = f(x)
        if y.shape != x.shape[:1] or not bool(y.isfinite().all()):
            raise ValueError("the function gives a finite number for each point")
        root = self.weights_.sqrt()
        phi = root[:, None] * self.space.phi(x)
        q, r = torch.linalg.qr(phi)
        right = q.T @ (root * y.double())
        self.coef_ = torch.linalg.solve_triangular(r, right[:, None], upper=True)[:, 0]
        return self

    def predict(self, x: Tensor) -> Tensor:
        """The fit [n] at points [n]."""
        values: Tensor = self.space.phi(x) @ self.coef_
        return values
