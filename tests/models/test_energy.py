"""Unnormalised models by compositional optimisation: acceptance checks of arXiv 2306.07485."""

from __future__ import annotations

import copy
import io
import math
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.datasets import make_moons
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward import dist
from pushforward.errors import ProgramError
from pushforward.inference import MCMC, SMC, nuts
from pushforward.models.energy import CompositionalLikelihood, NoiseContrastive, UnnormalizedModel
from pushforward.semantics import denote

pytestmark = pytest.mark.usefixtures("double")


class Tilted(nn.Module):
    """E = x^2 / 2 - w x: a normal law about w, with log Z = w^2 / 2 + log(2 pi) / 2."""

    def __init__(self, w: float = 0.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(w))

    def forward(self, x: Tensor) -> Tensor:
        return x.square() / 2 - self.w * x


def tilted(w: float, noise_sd: float) -> UnnormalizedModel:
    return UnnormalizedModel(Tilted(w), dist.Normal(0.0, noise_sd))


def log_z(w: float) -> float:
    return w**2 / 2 + math.log(2 * math.pi) / 2


X = torch.tensor([1.0, 2.0], dtype=torch.float64)
Z = torch.tensor([-0.5, 0.2, 1.0], dtype=torch.float64)


def test_a_step_by_hand() -> None:
    model = tilted(0.5, 1.0)
    g = model.log_ratio(Z).exp()
    expected = torch.tensor([1.95216406, 2.77025267, 4.13273135])
    torch.testing.assert_close(g.detach(), expected, rtol=0, atol=5e-9)
    loss = CompositionalLikelihood(model, gamma=0.3)
    loss.log_u.fill_(math.log(2.0))
    loss(X, Z).backward()
    assert float(loss.log_u.exp()) == pytest.approx(2.2855148089, abs=1e-10)
    assert model.energy.w.grad.item() == pytest.approx(-0.9588090405, abs=1e-10)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert model.energy.w.item() == pytest.approx(0.5958809041, abs=1e-10)


def test_the_plug_in() -> None:
    """-mean log p~ + log mean g, whose gradient gamma = 1 has."""
    w = torch.tensor(0.5, requires_grad=True)
    log_g = w * Z - Z.square() / 2 - dist.Normal(0.0, 1.0).log_prob(Z)
    plug_in = -(w * X - X.square() / 2).mean() + log_g.logsumexp(0) - math.log(3)
    assert plug_in.item() == pytest.approx(1.5823867062, abs=1e-10)
    plug_in.backward()
    model = tilted(0.5, 1.0)
    CompositionalLikelihood(model, gamma=1.0)(X, Z).backward()
    torch.testing.assert_close(model.energy.w.grad, w.grad, rtol=0, atol=1e-12)


def shifted(energy: nn.Module, by: float, x: Tensor) -> Tensor:
    found: Tensor = energy(x) - by
    return found


def test_energies_of_any_size() -> None:
    """A constant of 2000 in the energy changes log u by it, and no gradient."""
    gradients = []
    for shift in (0.0, 2000.0):
        plain = Tilted(0.5)
        model = UnnormalizedModel(partial(shifted, plain, shift), dist.Normal(0.0, 1.0))
        loss = CompositionalLikelihood(model, gamma=0.3)
        loss.log_u.fill_(math.log(2.0) + shift)
        loss(X, Z).backward()
        assert float(loss.log_u) - shift == pytest.approx(math.log(2.2855148089), abs=1e-10)
        gradients.append(plain.w.grad)
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-10)


TABLE = torch.tensor([0.3, -1.0, 0.7, 0.0, 1.2, -0.4, 0.1, -0.9], dtype=torch.float64)


def on_states() -> UnnormalizedModel:
    return UnnormalizedModel(lambda x: TABLE[x.long()], dist.Categorical(torch.ones(8) / 8))


def test_u_follows_z() -> None:
    """Eight states, 2000 steps at a fixed energy: within 1 % of the exact Z."""
    torch.manual_seed(0)
    loss = CompositionalLikelihood(on_states(), gamma=0.01)
    x = torch.arange(8)
    for _ in range(2000):
        loss(x, 256)
    exact = (-TABLE).logsumexp(0)
    assert abs(float(loss.log_u - exact)) < 0.01
    found, error = on_states().estimate_log_z(100_000)
    assert 0 < float(error) < 0.01 and abs(float(found - exact)) < 5 * float(error)


def test_it_is_a_program() -> None:
    """Its measure is e^-E: of mass Z, exactly; and NUTS and SMC draw from it."""
    measure = denote(on_states().program())
    assert measure.mass() == pytest.approx(float((-TABLE).exp().sum()), abs=1e-12)
    normal = tilted(1.0, 2.0).program()
    with torch.no_grad():
        fit = SMC(4000, 2, progress=False).run(normal, seed=1)
        assert abs(fit.log_evidence - log_z(1.0)) < 0.05
        chain = MCMC(nuts(), 2, 400, 200, compiled=False, progress=False).run(normal, seed=1)
    for draws in (fit["x"], chain["x"]):
        assert abs(float(draws.mean()) - 1) < 0.25 and abs(float(draws.std()) - 1) < 0.15


@pytest.mark.parametrize(
    ("r", "exact"), [(1, 0.427861), (2, 0.357844), (4, 0.148023), (6, 0.0190679), (8, 0.000791682)]
)
def test_noise_contrast_is_flat_far_away(r: float, exact: float) -> None:
    """Second derivatives at the optimum, by quadrature; that of the likelihood is one."""
    x = torch.linspace(-12, r + 12, 20_001)
    dx, q = x[1] - x[0], dist.Normal(0.0, 1.0)
    p = dist.Normal(r, 1.0).log_prob(x).exp()

    def contrast(w: Tensor) -> Tensor:
        ratio = dist.Normal(w, 1.0).log_prob(x) - q.log_prob(x)
        return ((p * F.softplus(-ratio) + q.log_prob(x).exp() * F.softplus(ratio)) * dx).sum()

    def likelihood(w: Tensor) -> Tensor:
        return -(p * (w * x - x**2 / 2) * dx).sum() + w**2 / 2

    at = torch.tensor(float(r))
    assert float(torch.func.hessian(contrast)(at)) == pytest.approx(exact, abs=1e-5)
    assert float(torch.func.hessian(likelihood)(at)) == pytest.approx(1, abs=1e-5)


def run(loss: nn.Module, target: float, steps: int, lr: float, size: int) -> Tensor:
    """w after each of the steps of plain descent on draws of N(target, 1)."""
    optimizer = torch.optim.SGD(loss.parameters(), lr=lr)
    path = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss(target + torch.randn(size), size).backward()
        optimizer.step()
        path.append(loss.model.energy.w.item())
    return torch.tensor(path)


def first_near(path: Tensor, target: float) -> int:
    return int(((path - target).abs() <= 0.1 * target).nonzero()[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "sd", "ours", "contrast"), [(4.0, 3.0, 250, 400), (2.0, 2.0, 100, 110)]
)
def test_it_is_faster_than_noise_contrast(
    target: float, sd: float, ours: int, contrast: int
) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        path = run(CompositionalLikelihood(tilted(0.0, sd), ess_floor=0.0), target, 3000, 0.1, 64)
        assert first_near(path, target) <= ours
        assert abs(float(path[-1000:].mean()) - target) < 0.05
        torch.manual_seed(seed)
        other = run(NoiseContrastive(tilted(0.0, sd), log_z(0.0)), target, 3000, 0.1, 64)
        assert first_near(other, target) >= contrast
        assert abs(float(other[-1000:].mean()) - target) < 0.05


@pytest.mark.slow
def test_noise_far_away_runs_off_and_the_guard_brings_it_back() -> None:
    torch.manual_seed(0)
    off = run(CompositionalLikelihood(tilted(0.0, 1.0), ess_floor=0.0), 4.0, 2000, 0.1, 64)
    assert float((off - 4).abs().max()) > 100
    torch.manual_seed(0)
    guarded = CompositionalLikelihood(tilted(0.0, 1.0))
    optimizer_path = run(guarded, 4.0, 60, 0.1, 64)
    assert guarded.refits == 1
    path = torch.cat([optimizer_path, run(guarded, 4.0, 1940, 0.1, 64)])
    assert guarded.refits == 1
    assert float(path.abs().max()) < 4.5
    assert abs(float(path[-500:].mean()) - 4) < 0.05


@pytest.mark.slow
def test_a_small_gamma_is_needed() -> None:
    """Batches of four: the mean of the second half is off by .17 with gamma .01, else by far."""
    errors = []
    for gamma in (1.0, 0.1, 0.01):
        torch.manual_seed(0)
        loss = CompositionalLikelihood(tilted(0.0, 1.0), gamma, ess_floor=0.0)
        path = run(loss, 1.5, 6000, 0.02, 4)
        errors.append(abs(float(path[3000:].mean()) - 1.5))
    assert min(errors[:2]) > 5
    assert errors[2] < 0.25


@pytest.mark.slow
def test_two_moons() -> None:
    """Half a nat better than a normal fit on held-out data, within 1500 steps."""
    torch.manual_seed(0)
    points = torch.as_tensor(make_moons(4000, noise=0.1, random_state=0)[0])
    data, held = points[:3000], points[3000:]
    mean, covariance = data.mean(0), data.T.cov()
    normal = dist.MultivariateNormal(mean, covariance).log_prob(held).mean()
    net = nn.Sequential(nn.Linear(2, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1))
    noise = dist.MultivariateNormal(mean, 2.25 * covariance)
    model = UnnormalizedModel(lambda x: net(x).squeeze(-1) + x.square().sum(-1) / 8, noise)
    loss = CompositionalLikelihood(model)
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(1500):
        loss.gamma = 0.1 * (1 - step / 1500) + 0.01
        optimizer.zero_grad()
        loss(data[torch.randint(3000, (256,))], 256).backward()
        optimizer.step()
    with torch.no_grad():
        found, error = model.estimate_log_z(100_000)
        held_out = model.log_prob(held, found).mean()
    assert float(error) < 0.02
    assert float(held_out - normal) > 0.5


def test_state_goes_on() -> None:
    torch.manual_seed(0)
    loss = CompositionalLikelihood(tilted(0.0, 0.3), patience=2)
    run(loss, 4.0, 30, 0.05, 16)
    assert loss.refits == 1
    stored = io.BytesIO()
    torch.save(loss.state_dict(), stored)
    stored.seek(0)
    again = CompositionalLikelihood(tilted(0.0, 0.3), patience=2)
    again.load_state_dict(torch.load(stored))
    twins = []
    for each in (loss, again):
        torch.manual_seed(1)
        twins.append(run(each, 4.0, 20, 0.05, 16))
    assert torch.equal(*twins)


class Holed(nn.Module):
    """Infinite energy below zero."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x > 0, x, math.inf)


def test_no_mass_weighs_nothing() -> None:
    """An exponential law in normal noise: Z is one."""
    torch.manual_seed(0)
    model = UnnormalizedModel(Holed(), dist.Normal(0.0, 3.0))
    found, error = model.estimate_log_z(100_000)
    assert abs(float(found)) < 5 * float(error)
    shift = nn.Parameter(torch.tensor(0.0))
    moving = UnnormalizedModel(lambda x: Holed()(x) + shift, dist.Normal(0.0, 3.0))
    CompositionalLikelihood(moving)(torch.ones(4), 100).backward()
    assert shift.grad is not None and abs(shift.grad.item()) < 1e-12


def test_a_law_of_torch_and_points_in_the_plane() -> None:
    noise = torch.distributions.MultivariateNormal(torch.zeros(2), 4 * torch.eye(2))
    model = UnnormalizedModel(lambda x: x.square().sum(-1) / 2, noise)
    found, error = model.estimate_log_z(100_000)
    assert abs(float(found) - math.log(2 * math.pi)) < 5 * float(error)
    with pytest.raises(ProgramError, match=r"pushforward\.dist"):
        model.program()()
    model.noise = dist.MultivariateNormal(torch.zeros(2), 4 * torch.eye(2))
    fit = SMC(1000, 2, progress=False).run(model.program(), seed=1)
    assert abs(fit.log_evidence - math.log(2 * math.pi)) < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_precisions(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.tensor(0.5, dtype=dtype))
    noise = dist.Normal(torch.tensor(0.0, dtype=dtype), torch.tensor(2.0, dtype=dtype))
    model = UnnormalizedModel(lambda x: x.square() / 2 - w * x, noise)
    loss = CompositionalLikelihood(model)
    for _ in range(3):
        loss(torch.ones(16, dtype=dtype), 64).backward()
    assert w.grad is not None and bool(w.grad.isfinite()) and w.grad.dtype == dtype
    CompositionalLikelihood(model)(torch.ones(1, dtype=dtype), 1).backward()


def test_noise_follows_data_far_from_zero() -> None:
    """In float32, where squares of the data would lose their spread."""
    torch.manual_seed(0)
    x = 1e4 + torch.randn(4000, dtype=torch.float32)
    model = UnnormalizedModel(lambda x: (x - 1e4).square() / 2, dist.Normal(9.5e3, 1e3))
    loss = CompositionalLikelihood(model, patience=1).float()
    for part in x.split(500):
        loss(part)
    noise: Any = model.noise
    assert loss.refits == 1
    assert noise.scale.item() == pytest.approx(1.5, rel=0.05)


NORMAL = dist.Normal(0.0, 1.0)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: CompositionalLikelihood(tilted(0.0, 1.0), 0.0), ValueError, "gamma"),
        (lambda: CompositionalLikelihood(tilted(0.0, 1.0), ess_floor=1.0), ValueError, "ess_floor"),
        (lambda: CompositionalLikelihood(tilted(0.0, 1.0), patience=0), ValueError, "patience"),
        (lambda: CompositionalLikelihood(tilted(0.0, 1.0))(X[:0]), ValueError, "no data"),
        (lambda: NoiseContrastive(tilted(0.0, 1.0))(X[:0]), ValueError, "no data"),
        (lambda: tilted(0.0, 1.0).estimate_log_z(1), ValueError, "two draws"),
        (lambda: UnnormalizedModel(Tilted(), torch.randn), ValueError, "log_prob"),  # type: ignore[arg-type]
        (
            lambda: UnnormalizedModel(Tilted(), dist.Normal(torch.zeros(2), 1.0)),
            ValueError,
            "batch",
        ),
        (
            lambda: UnnormalizedModel(lambda x: x * math.nan, NORMAL).log_unnormalized(X),
            ValueError,
            "not a number",
        ),
        (
            lambda: UnnormalizedModel(lambda x: x - math.inf, NORMAL).log_unnormalized(X),
            FloatingPointError,
            "minus infinity",
        ),
        (
            lambda: UnnormalizedModel(lambda x: x.sum(), NORMAL).log_unnormalized(X),
            ValueError,
            "for each datum",
        ),
        (
            lambda: CompositionalLikelihood(
                UnnormalizedModel(Tilted(), dist.Uniform(0.0, 1.5, validate_args=False))
            )(X),
            ValueError,
            "no mass",
        ),
        (
            lambda: CompositionalLikelihood(UnnormalizedModel(Holed(), NORMAL))(-X),
            ValueError,
            "the model has no mass at data",
        ),
        (
            lambda: CompositionalLikelihood(
                UnnormalizedModel(lambda x: torch.where(x > 9, x, math.inf), NORMAL)
            )(10 + X, Z),
            ValueError,
            "no draw of the noise",
        ),
        (
            lambda: run(
                CompositionalLikelihood(tilted(0.0, 0.1), patience=1, refit=None), 4.0, 50, 0.1, 64
            ),
            RuntimeError,
            "wider noise",
        ),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_noise_that_never_covers_is_told() -> None:
    torch.manual_seed(0)
    loss = CompositionalLikelihood(
        tilted(4.0, 0.1), patience=1, refit=lambda x: dist.Normal(0.0, 0.1)
    )
    with pytest.warns(RuntimeWarning, match="does not cover"):
        run(loss, 4.0, 50, 1e-9, 64)
    assert copy.deepcopy(loss).refits > 5
