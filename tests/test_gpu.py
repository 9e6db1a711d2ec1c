"""Programs, inference, layers and optimisers on a GPU: the same numbers as on CPU, or known ones.

Everything is made there by ``torch.set_default_device``, as a user would.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward import compiled, condition, dist, observe, plate, program, sample, scan
from pushforward.inference import ADVI, MCMC, SMC, SVI, Exact, nuts, particle_filter, smc
from pushforward.inference.kernels import single_site
from pushforward.inference.vi import MeanField, elbo
from pushforward.nn import optim
from pushforward.nn.activations import SELU, CRReLU
from pushforward.nn.attention import NaLaBlock, SoftBlock
from pushforward.nn.normalisation import EvoNorm, L1LayerNorm, UnifiedNorm
from pushforward.semantics import check, denote

pytestmark = pytest.mark.gpu
QUIET: dict[str, Any] = {"progress": False}
DATA = [1.2, 0.4, 2.1, 1.7, 0.9, 1.4]
MEAN, SD = sum(DATA) / (1 / 4 + 6), (1 / 4 + 6) ** -0.5


@pytest.fixture(autouse=True)
def _on_the_gpu() -> Iterator[None]:
    torch.manual_seed(0)
    torch.set_default_device("cuda")
    yield
    torch.set_default_device(None)


@program
def normal_mean(y: Tensor) -> Any:
    mu = sample("mu", dist.Normal(torch.zeros(()), 2.0))
    with plate("n", len(y)):
        observe("y", dist.Normal(mu, 1.0), y)
    return mu


def posterior_of(draws: Tensor, sizes: float) -> None:
    """Mean and deviation within five standard errors of so many independent draws."""
    assert draws.device.type == "cuda"
    assert abs(float(draws.mean()) - MEAN) < 5 * SD / sizes**0.5
    assert abs(float(draws.std()) - SD) < 5 * SD / (2 * sizes) ** 0.5


@pytest.mark.parametrize("fast", [False, True])
def test_nuts(fast: bool) -> None:
    fit = MCMC(nuts(), 4, 500, 300, compiled=fast, **QUIET).run(
        normal_mean, torch.tensor(DATA), seed=1
    )
    posterior_of(fit["mu"], 500)


def test_tempered_smc() -> None:
    fit = SMC(1000, 2, **QUIET).run(normal_mean, torch.tensor(DATA), seed=1)
    posterior_of(fit["mu"], 300)


def test_advi() -> None:
    fit = ADVI(**QUIET).run(normal_mean, torch.tensor(DATA), seed=1)
    posterior_of(fit["mu"], 100)


def test_variational_inference() -> None:
    y = torch.tensor(DATA)
    guide = MeanField(normal_mean, y)
    optimizer = torch.optim.Adam(guide.parameters(), lr=0.05)
    result = SVI(elbo(normal_mean, guide), optimizer, samples=16, **QUIET).run(y, steps=500)
    posterior_of(result.posterior(y, draws=2000)["mu"], 200)


@program
def linear_gaussian(ys: Tensor) -> Tensor:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        x = sample("x", dist.Normal(0.9 * x, 1.0))
        observe("y", dist.Normal(x, 0.5), y)
        return x, None

    return scan(step)(sample("x0", dist.Normal(torch.zeros(()), 1.0)), ys)[0]


def evidence(ys: list[float]) -> float:
    """By Kalman's recursion."""
    mean, variance, total = 0.0, 1.0, 0.0
    for y in ys:
        mean, variance = 0.9 * mean, 0.81 * variance + 1.0
        s = variance + 0.25
        total -= 0.5 * (math.log(2 * math.pi * s) + (y - mean) ** 2 / s)
        mean, variance = mean + variance / s * (y - mean), variance * 0.25 / s
    return total


@pytest.mark.parametrize("fast", [False, True])
def test_a_particle_filter(fast: bool) -> None:
    filtering: Any = particle_filter(linear_gaussian, 100_000)
    run = compiled(filtering) if fast else filtering
    with torch.no_grad():
        found = run(torch.tensor(DATA)).log_evidence()
    assert found.device.type == "cuda"
    assert abs(float(found) - evidence(DATA)) < 0.03


def test_kernels_on_traces_and_particles() -> None:
    y = torch.tensor(DATA)
    fit = MCMC(single_site(), 2, 400, **QUIET).run(normal_mean, y, seed=1)
    assert abs(float(fit["mu"].mean()) - MEAN) < 0.5
    population = smc(normal_mean, 50_000)(y)
    exact = dist.MultivariateNormal(torch.zeros(6), torch.eye(6) + 4 * torch.ones(6, 6))
    assert abs(float(population.log_evidence() - exact.log_prob(y))) < 0.1


@program
def weather() -> Any:
    rain = sample("rain", dist.Bernoulli(torch.tensor(0.2, dtype=torch.float64)))
    observe("wet", dist.Bernoulli(0.1 + 0.8 * rain), torch.tensor(1.0, dtype=torch.float64))
    return rain


def test_checks() -> None:
    assert math.isclose(denote(weather).mass(), 0.26, rel_tol=1e-9)
    check.valid(smc(weather, 2), weather).require()
    assert math.isclose(Exact(10).run(weather).log_evidence, math.log(0.26), rel_tol=1e-6)


def test_predictions_condition_a_program() -> None:
    @program
    def effect(n: int) -> None:
        mean = sample("mean", dist.Normal(0.0, 2.0))
        with plate("person", n):
            sample("gain", dist.Normal(mean, 1.0))

    fit = MCMC(nuts(), 2, 200, 200, compiled=False, **QUIET).run(
        condition(effect, {"gain": torch.tensor(DATA)}), 6, seed=1
    )
    posterior_of(fit["mean"], 100)
    fit.to_arviz()


LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "EvoNorm S0": (lambda: EvoNorm(8, "S0", 4), (3, 8, 5, 5)),
    "EvoNorm B0": (lambda: EvoNorm(8, "B0"), (3, 8, 5, 5)),
    "UnifiedNorm": (lambda: UnifiedNorm(8), (3, 5, 8)),
    "L1LayerNorm": (lambda: L1LayerNorm(8), (3, 5, 8)),
    "NaLa": (lambda: NaLaBlock(8, 2), (3, 7, 8)),
    "SOFT": (lambda: SoftBlock(8, 2, landmark="linspace", num_landmarks=4), (3, 16, 8)),
    "SELU": (lambda: SELU(), (3, 8)),
    "CRReLU": (lambda: CRReLU(), (3, 8)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers(name: str) -> None:
    make, shape = LAYERS[name]
    here = make().double()
    there = copy.deepcopy(here).cpu()
    x = torch.randn(shape, dtype=torch.float64)
    results = []
    for layer, given in ((here, x), (there, x.cpu())):
        own = given.clone().requires_grad_()
        out = layer(own)
        out.square().sum().backward()
        results.append((out.detach().cpu(), own.grad))
    assert results[0][1] is not None and results[1][1] is not None
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(results[0][1].cpu(), results[1][1], rtol=1e-9, atol=1e-9)


def optimisers(weight: Any) -> dict[str, Any]:
    mirror = {"domain": optim.Ball(10.0), "diameter": 20.0, "grad_bound": 20.0}
    return {
        "AdamP": lambda: optim.AdamP([weight], lr=0.1),
        "SGDP": lambda: optim.SGDP([weight], lr=0.1, momentum=0.9),
        "ExponentiatedSGD": lambda: optim.ExponentiatedSGD([weight], lr=0.1),
        "OptimisticMirrorDescent": lambda: optim.OptimisticMirrorDescent([weight], **mirror),
        "GradNormSmooth": lambda: optim.GradNormSmooth([weight]),
    }


@pytest.mark.parametrize("name", optimisers(None))
def test_optimisers(name: str) -> None:
    start = torch.randn(4, 3, dtype=torch.float64)
    target = torch.randn(4, 3, dtype=torch.float64)
    found = []
    for device in ("cuda", "cpu"):
        weight = nn.Parameter(start.to(device, copy=True))
        optimizer = optimisers(weight)[name]()

        def loss(weight: Tensor = weight, optimizer: Any = optimizer) -> Tensor:
            value = (weight - target.to(weight.device)).square().sum()
            if name != "GradNormSmooth":
                optimizer.zero_grad()
                value.backward()
            return value

        for _ in range(5):
            optimizer.step(loss)
        found.append(weight.detach().cpu())
        assert weight.device.type == device
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)
