"""Multiplicative diffusion: acceptance checks of arXiv 2510.02730, with scores in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Categorical, Independent, LogNormal, MixtureSameFamily

from pushforward.models.multiplicative import (
    GBMDiffusion,
    GeometricBrownianMotion,
    conditional_score,
    dls_step,
    mdsm_loss,
    ums_step,
)

MU, SIGMA = 0.32, 0.8


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_a_loss_by_hand() -> None:
    x0, x, t = f([[2.0]]), f([[3.0]]), f([[0.25]])
    h = 3 * f([[0.5]])
    score = conditional_score(x, x0, t, MU, SIGMA)
    assert float(score) == pytest.approx(-3.5341569257, abs=1e-9)
    assert float(mdsm_loss(h, x, x0, t, MU, SIGMA)) == pytest.approx(0.6487740404, abs=1e-9)


def test_steps_by_hand() -> None:
    x, h, z = f([3.0]), f([1.5]), f([0.7])
    assert float(dls_step(x, h, z, 0.01, MU, SIGMA)) == pytest.approx(3.2239660322, abs=1e-9)
    assert float(ums_step(x, h, z, 0.01, MU, SIGMA)) == pytest.approx(3.2256, abs=1e-9)
    assert float(dls_step(x, h, 0 * z, 0.01, MU, SIGMA)) == pytest.approx(3.0483860562, abs=1e-9)


def test_a_dls_step_is_eulers_in_logarithms() -> None:
    torch.manual_seed(0)
    x, h, z = torch.rand(50).double() + 0.5, torch.randn(50).double(), torch.randn(50).double()
    back = -(MU - SIGMA**2 / 2) + SIGMA**2 * (h + 1)
    log_x = x.log() + 0.01 * back + SIGMA * 0.1 * z
    torch.testing.assert_close(
        dls_step(x, h, z, 0.01, MU, SIGMA), log_x.exp(), rtol=1e-14, atol=1e-14
    )


def test_samplers_agree_to_first_order() -> None:
    """4 standard errors of 10^6 draws are below 1 per cent; the limits are 3."""
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(10**6, generator=generator, dtype=torch.float64)
    x, h = f([3.0]), f([1.5])
    for delta, gap in ((0.01, 4.88e-3), (0.0025, 1.154e-3), (0.000625, 2.84e-4)):
        one, other = (step(x, h, z, delta, MU, SIGMA) for step in (dls_step, ums_step))
        found = float(((one - other) / 3).square().mean().sqrt())
        assert found == pytest.approx(gap, rel=0.03)


def test_the_law_is_log_normal() -> None:
    x0, x = f([1.5, 2.0]), f([1.2, 4.0])
    motion = GeometricBrownianMotion(0.1, 0.5)
    expected = torch.distributions.LogNormal(x0.log() + (0.1 - 0.125) * 0.3, 0.5 * math.sqrt(0.3))
    torch.testing.assert_close(
        motion.log_prob(x, x0, 0.3), expected.log_prob(x), rtol=1e-12, atol=1e-12
    )
    leaf = x0.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x0: motion.log_prob(x, x0, 0.3), leaf)
    h = (
        x
        * torch.autograd.grad(motion.log_prob(y := x.clone().requires_grad_(), x0, 0.3).sum(), y)[0]
    )
    torch.testing.assert_close(conditional_score(x, x0, f(0.3), 0.1, 0.5), h)


CENTRES, SPREAD, SHARES = f([1.1, 1.8]).log(), 0.05, f([0.4, 0.6])


def exact(x: Tensor, t: Tensor) -> Tensor:
    """x times the marginal score of a mixture of log-normals that has been noised (no drift)."""
    variance = SPREAD**2 + SIGMA**2 * t.reshape(-1, *(1 for _ in x.shape[1:]))
    away = x.log()[..., None] - CENTRES
    weights = (SHARES.log() - away.square() / (2 * variance[..., None])).softmax(-1)
    slope: Tensor = -1 - (weights * away).sum(-1) / variance
    return slope


def mixture(n: int, generator: torch.Generator) -> Tensor:
    which = (torch.rand(n, generator=generator) < 0.6).long()
    return (CENTRES[which] + SPREAD * torch.randn(n, generator=generator).double()).exp()


def test_the_minimiser_of_the_loss() -> None:
    """The mean conditional score in a window is the marginal one, within .03 (400 000 draws)."""
    generator = torch.Generator().manual_seed(0)
    x0 = mixture(400_000, generator)
    t = f(0.25)
    x = (x0.log() + SIGMA * 0.5 * torch.randn(len(x0), generator=generator).double()).exp()
    assert float(exact(f([1.4]), f([0.25]))) == pytest.approx(-0.677, abs=1e-3)
    near = (x - 1.4).abs() < 0.02
    target = conditional_score(x, x0, t, MU, SIGMA)
    assert float(target[near].mean()) == pytest.approx(-0.677, abs=0.03)
    losses = [
        float(mdsm_loss(h[:, None], x[:, None], x0[:, None], t, MU, SIGMA).mean())
        for h in (exact(x, t.expand(len(x))), torch.zeros_like(x))
    ]
    assert losses == pytest.approx([0.0434, 0.186], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["dls", "ums"])
def test_samples_have_the_law_of_the_data(sampler: Any) -> None:
    """20 000 draws; the distance of Kolmogorov and Smirnov is .015 where one alone has .01."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = GBMDiffusion(exact, offset=0.0)
    start = model.motion.rsample(mixture(20000, generator), 1.0)
    found = model.sample(start, sampler).log()
    data = mixture(20000, generator).log()
    grid = torch.linspace(-0.5, 1.5, 400).double()
    distance = max(
        abs(float((found < g).double().mean() - (data < g).double().mean())) for g in grid
    )
    assert distance < 0.03
    assert float((found > math.log(1.4)).double().mean()) == pytest.approx(0.60, abs=0.02)
    assert float(found.std()) == pytest.approx(0.2455, abs=0.005)


def law_at(t: float) -> Any:
    """Of x_t, [1]."""
    widths = math.sqrt(SPREAD**2 + SIGMA**2 * t) * torch.ones(2, 1).double()
    each = Independent(LogNormal(CENTRES[:, None], widths), 1)
    return MixtureSameFamily(Categorical(SHARES), each)


@pytest.mark.parametrize("start", [0.001, 0.1])
def test_the_density_by_the_flow(start: float) -> None:
    """From the exact law of x_T, that of x_t; the more steps the better, by the fourth order."""
    model = GBMDiffusion(exact, offset=0.0)
    x = f([[0.9], [1.1], [1.4], [1.8], [2.2]])
    expected = law_at(start).log_prob(x)
    errors = []
    for steps in (30, 60):
        found = model.log_prob(x, law_at(1.0), steps, start)
        errors.append(float((found - expected).abs().max()))
    assert errors[1] < (1e-3 if start == 0.001 else 1e-6)
    assert errors[1] < errors[0] / 8


def test_the_density_is_one_by_probes_too() -> None:
    """For independent numbers every probe gives the exact trace."""
    torch.manual_seed(0)
    model = GBMDiffusion(exact, offset=0.5)
    x = 0.5 + torch.rand(4, 3).double()
    end = Independent(LogNormal(torch.zeros(3).double(), torch.ones(3).double()), 1)
    one, other = (model.log_prob(x, end, 20, 0.1, probes) for probes in (None, 2))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_single_numbers() -> None:
    """Data [b]: loss, draws and density as of [b, 1]."""
    model = GBMDiffusion(exact, offset=0.0)
    x = f([0.9, 1.4, 1.8])
    end = LogNormal(f(0.4), f(0.9))
    one = model.log_prob(x, end, 20, 0.1)
    other = model.log_prob(x[:, None], Independent(LogNormal(f([0.4]), f([0.9])), 1), 20, 0.1)
    torch.testing.assert_close(one, other)
    assert model.loss(x).ndim == 0 and model.sample(x, steps=3).shape == (3,)


def test_the_end_of_a_log_normal() -> None:
    """Its law is log-normal at all times, with variances that add."""
    model = GBMDiffusion(exact, mu=0.5, offset=0.0)
    data = (0.3 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(0)).double()).exp()
    end: Any = model.end_law(data)
    drift = 0.5 - SIGMA**2 / 2
    assert end.base_dist.loc.tolist() == pytest.approx([drift] * 2, abs=0.02)
    assert end.base_dist.scale.tolist() == pytest.approx([math.hypot(0.3, 0.8)] * 2, abs=0.01)


def spirals(n: int, generator: torch.Generator) -> Tensor:
    """Two arms about (5, 5), with a noise of .1."""
    turn = 3 * math.pi * torch.rand(n, generator=generator).sqrt()
    arm = (torch.rand(n, generator=generator) < 0.5).float() * 2 - 1
    points = torch.stack([turn.cos(), turn.sin()], 1) * (arm * turn / 3)[:, None]
    return 5 + points + 0.1 * torch.randn(n, 2, generator=generator)


class Wide(nn.Module):
    """Three layers of 128, of log x and waves of t; the output over the noise's deviation."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(2 + 16, 128), (128, 128), (128, 128)]
        layers = [layer for a, b in sizes for layer in (nn.Linear(a, b), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(128, 2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angles = t[:, None] * torch.pi * 2.0 ** torch.arange(8)
        waves = torch.cat([angles.sin(), angles.cos()], 1)
        out: Tensor = self.layers(torch.cat([x.log(), waves], 1))
        return -1 + out / (SIGMA * t[:, None].sqrt())


def sliced_wasserstein(a: Tensor, b: Tensor, generator: torch.Generator) -> float:
    directions = nn.functional.normalize(torch.randn(2, 100, generator=generator), dim=0)
    one, other = ((x @ directions).sort(0).values for x in (a, b))
    return float((one - other).abs().mean())


@pytest.mark.slow
def test_two_spirals() -> None:
    """4000 steps of Adam: a quarter of the distance of the noise to held-out data, or less."""
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(0)
    model = GBMDiffusion(Wide(), offset=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4000)
    for _ in range(4000):
        optimizer.zero_grad()
        model.loss(spirals(512, g)).backward()
        optimizer.step()
        schedule.step()
    noise = model.motion.rsample(spirals(4000, g), 1.0)
    held = spirals(4000, g)
    found = model.sample(noise, steps=500)
    assert sliced_wasserstein(found, held, g) < 0.25 * sliced_wasserstein(noise, held, g)
    end = model.end_law(spirals(4000, g))
    apart = [model.log_prob(x, end, 100, 0.002).mean() for x in (held[:200], noise[:200])]
    assert float(apart[0] - apart[1]) > 1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 1))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        out: Tensor = self.layers(torch.cat([x.log(), t[:, None].expand_as(x)], 1))
        return out


def test_a_network_learns_the_score() -> None:
    """The loss of data without spread: h is -1 - log(x / x0) / (sigma^2 t), which gives zero."""
    torch.manual_seed(0)
    model = GBMDiffusion(Net())
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    data = torch.ones(256, 1)
    losses = []
    for _ in range(300):
        optimizer.zero_grad()
        loss = model.loss(data)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-20:]) < 0.3 * sum(losses[:20])
    drawn = model.sample(model.motion.rsample(data + 1, 1.0), denoise=True)
    assert bool((drawn > -1).all()) and drawn.shape == (256, 1)


X = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: GBMDiffusion(Net()).loss(-2 * X), ValueError, "the least is -1"),
        (lambda: GBMDiffusion(Net(), sigma=0.0), ValueError, "sigma and T"),
        (lambda: GeometricBrownianMotion(0.1, -1.0), ValueError, "sigma is positive"),
        (lambda: GeometricBrownianMotion(0.1, 1.0).rsample(X, 0.0), ValueError, "times"),
        (lambda: mdsm_loss(X, X, X, X, 0.1, 0.0), ValueError, "sigma is positive"),
        (lambda: mdsm_loss(X, X, X, 0 * X, 0.1, 1.0), ValueError, "times"),
        (lambda: GBMDiffusion(Net()).end_law(X[:1]), ValueError, "two data"),
        (lambda: GBMDiffusion(Net()).log_prob(-2 * X, LogNormal(0.0, 1.0)), ValueError, "least"),
        (
            lambda: GBMDiffusion(Net()).log_prob(X, LogNormal(0.0, 1.0), start=1.0),
            ValueError,
            "start < T",
        ),
        (lambda: GBMDiffusion(Net()).sample(X, "euler"), ValueError, "not 'euler'"),  # type: ignore[arg-type]
        (
            lambda: GBMDiffusion(lambda x, t: x * math.nan).sample(X, steps=3),
            RuntimeError,
            "at step 0",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_great_steps_are_reflected() -> None:
    torch.manual_seed(0)
    model = GBMDiffusion(lambda x, t: -20 * torch.ones_like(x), N=10)
    with pytest.warns(UserWarning, match="reflected"):
        drawn = model.sample(torch.ones(50, 1), "ums")
    assert bool((drawn + 1 >= 0).all())
