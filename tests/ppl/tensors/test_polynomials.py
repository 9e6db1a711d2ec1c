"""A density is quadratic by what computes it: no bend or step is too far away to be seen.

The class: densities that are quadratic where somebody looks, and nowhere else bend, jump, or hide
from derivatives.  Members are random affine maps through torch's operations, into which one
operation that is not affine is put, at a place of its own that may be a hundred deviations away.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, observe, plate, program, sample, scan
from pushforward.errors import ProgramError
from pushforward.inference import Exact
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.polynomials import NotQuadratic, require_quadratic

pytestmark = pytest.mark.usefixtures("double")

Map = Callable[[Tensor], Tensor]


def filled(x: Tensor) -> Tensor:
    y = x.new_zeros(4)
    y[1:3] = x[:2]
    return y


FACTOR = torch.linalg.cholesky(torch.eye(4).double() + 0.1)
AFFINE: list[Map] = [
    lambda x: 2.0 * x - 1.0,
    lambda x: x.flip(0),
    lambda x: torch.cat([x[2:], x[:2]]),
    lambda x: x.cumsum(0),
    lambda x: torch.where(torch.arange(4) > 1, x, -x),
    lambda x: FACTOR @ x,
    lambda x: torch.linalg.solve_triangular(FACTOR, x[:, None], upper=False)[:, 0],
    lambda x: torch.stack([x.sum(), x.mean(), x[0], x[3] / 3.0]),
    lambda x: x[torch.tensor([3, 3, 0, 1])],
    lambda x: torch.nn.functional.pad(x[1:3], (1, 1)),
    lambda x: torch.einsum("ij,j->i", FACTOR, x),
    lambda x: x.clone().index_add(0, torch.tensor([0, 0]), x[:2]),
    lambda x: x.masked_fill(torch.tensor([True, False, False, True]), 0.5),
    lambda x: x.reshape(2, 2).mT.reshape(4),
    lambda x: torch.outer(x, torch.ones(2)).diagonal().repeat(2),
    filled,
]
OTHER: dict[str, Map] = {
    "relu": lambda x: (x + 100).relu(),
    "clamp": lambda x: x.clamp(max=100.0),
    "abs": lambda x: (x - 100).abs(),
    "where": lambda x: torch.where(x > 100, 0.0, x),
    "step": lambda x: x + torch.where(x > 100, 1.0, 0.0),
    "sign": lambda x: x + (x - 100).sign(),
    "floor": lambda x: x + (x / 100).floor(),
    "floor in place": lambda x: x + (x / 100).floor_(),
    "sign in place": lambda x: x + (x - 100).sign_(),
    "division": lambda x: x + torch.div(x, 100, rounding_mode="trunc"),
    "remainder": lambda x: x.remainder(100.0),
    "maximum": lambda x: torch.maximum(x, x.new_tensor(-100.0)),
    "max": lambda x: x + x.max(),
    "sort": lambda x: x.sort().values,
    "argmax": lambda x: x[(x + torch.tensor([100.0, 0, 0, 0])).argmax()].expand(4),
    "integer": lambda x: x + (x / 100).int(),
    "boolean": lambda x: x * (x < 100),
    "detach": lambda x: x * x.detach(),
    "square": lambda x: 1e-6 * x**2,
    "product": lambda x: x * x.flip(0) * 1e-6,
    "sine": lambda x: x + 1e-9 * x.sin(),
    "reciprocal": lambda x: 1 / (x + 1000),
    "exponential": lambda x: x + (x - 100).exp(),
    "hardtanh": lambda x: torch.nn.functional.hardtanh(x, -100.0, 100.0),
    "leaky": lambda x: torch.nn.functional.leaky_relu(x + 100),
    "filled": lambda x: filled(x.abs()),
    "scatter": lambda x: x.new_zeros(4).scatter(0, (x > 100).long(), x),
    "huber": lambda x: x + torch.nn.functional.huber_loss(x, x * 0, delta=100.0),
    "nan_to_num": lambda x: x.nan_to_num(),
    "softplus": lambda x: torch.nn.functional.softplus(x, threshold=1.0),
    "relu6": lambda x: torch.nn.functional.relu6(x),
    "softshrink": lambda x: torch.nn.functional.softshrink(x, 100.0),
    "hardshrink": lambda x: torch.nn.functional.hardshrink(x, 100.0),
    "threshold": lambda x: torch.nn.functional.threshold(x, -100.0, 3.0),
    "prelu": lambda x: torch.nn.functional.prelu(x + 100, torch.tensor([0.3])),
    "rrelu": lambda x: torch.nn.functional.rrelu(x + 100),
    "angle": lambda x: x + (x + 100).angle(),
    "hidden": lambda x: x + hidden(x),
    "by hand": lambda x: ByHand.apply(x),
}


def hidden(x: Tensor) -> Tensor:
    with torch.no_grad():
        return x**4


class ByHand(torch.autograd.Function):
    """A cube whose derivative is said to be that of the identity."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: object, inputs: object, output: object) -> None:
        pass

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


def composed(draws: random.Random, *inner: Map, linear: bool = False) -> Callable[[Tensor], Tensor]:
    maps = [*(draws.choice(AFFINE) for _ in range(draws.randint(1, 4))), *inner]
    maps += [draws.choice(AFFINE[:6]) for _ in range(draws.randint(0, 2))]

    def f(u: Tensor) -> Tensor:
        x = u
        for each in maps:
            x = each(x)
        y = draws_of_square(x)
        return y - 0.5 * (u**2).sum()

    kind = 3 if linear else draws.randrange(3)

    def draws_of_square(x: Tensor) -> Tensor:
        if kind == 0:
            return dist.Normal(x, 2.0, validate_args=False).log_prob(torch.ones(4)).sum()
        if kind == 1:
            law = dist.MultivariateNormal(torch.zeros(4), scale_tril=FACTOR, validate_args=False)
            return law.log_prob(x)
        return x.sum() if linear else -(x @ x) / 3.0

    return f


@pytest.mark.parametrize("block", range(4))
def test_quadratic_functions_are_seen_to_be(block: int) -> None:
    for number in range(50 * block, 50 * block + 50):
        f = composed(random.Random(number), linear=number % 5 == 0)
        require_quadratic(f, torch.zeros(4))
        u = torch.linspace(-3.0, 50.0, 4)
        slope, hessian = torch.func.grad(f)(u * 0), torch.func.hessian(f)(u * 0)
        expected = f(u * 0) + slope @ u + 0.5 * u @ hessian @ u
        torch.testing.assert_close(f(u), expected)


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("name", OTHER)
def test_what_bends_or_jumps_anywhere_is_seen(name: str, linear: bool) -> None:
    """Also where what follows is linear, so that there is no second derivative to see."""
    if linear and name in ("square", "product"):
        return  # which are quadratic then
    for number in range(10):
        f = composed(random.Random(number), OTHER[name], linear=linear)
        with pytest.raises(NotQuadratic):
            require_quadratic(f, torch.zeros(4))


def test_exact_refuses_a_density_that_bends_where_mass_is() -> None:
    """Beyond two deviations of the prior the mean is constant: no normal law has this evidence."""

    @program
    def bent(y: Tensor) -> None:
        z = sample("z", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(z.clamp(max=2.0), 0.1), y)

    @program
    def jumps() -> None:
        z = sample("z", dist.Normal(0.0, 1.0))
        factor("f", torch.where(z > 2.0, 1.0, 0.0))

    for p, args in ((bent, (torch.tensor(1.0),)), (jumps, ())):
        for seed in range(5):
            with pytest.raises(ProgramError, match="not quadratic in its real latents: it"):
                Exact(10).run(p, *args, seed=seed)


def test_programs_of_normal_laws_are_seen_to_be_quadratic() -> None:
    ys = torch.linspace(0.0, 1.0, 6)

    def p() -> None:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Normal(0.9 * x, 1.0))
            observe("y", dist.Normal(x, 0.5), y)
            return x, None

        end, _ = scan(step)(sample("x0", dist.Normal(0.0, 1.0)), ys)
        with plate("n", 3):
            b = sample("b", dist.MultivariateNormal(end * torch.ones(2), torch.eye(2)))
        sample("low", dist.LowRankMultivariateNormal(b[0], torch.ones(2, 1), torch.ones(2)))
        factor("f", -(b.sum() ** 2) - end)

    density = LogDensity(p)
    require_quadratic(density, torch.zeros(density.layout.size))
