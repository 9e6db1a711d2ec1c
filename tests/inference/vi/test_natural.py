"""Natural gradients: one step to a conjugate posterior, the geometry of KL, covariances."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support.normals import numbers
from torch import Tensor

from pushforward import dist, factor, observe, plate, sample
from pushforward.errors import GuideError, ProgramError
from pushforward.inference.vi import (
    SVI,
    Flow,
    FullRank,
    MeanField,
    NaturalGradient,
    elbo,
    objective,
)

QUIET: dict[str, Any] = {"progress": False, "compiled": False}


@pytest.fixture(autouse=True)
def _double(double: None) -> None:
    """All of this is in float64."""


def precision_of(d: int, diagonal: bool) -> Tensor:
    """A precision whose scales differ by some hundreds."""
    scales = torch.logspace(-1.0, 1.5, d)
    if diagonal:
        return scales.square().diag()
    a = numbers(3, d * d).reshape(d, d)
    return scales[:, None] * (a @ a.T / d + torch.eye(d)) * scales


def model_of(d: int) -> Any:
    return lambda: sample("x", dist.Normal(torch.zeros(d), 1.0).to_event(1))


def guide_of(kind: Any, d: int, seed: int = 0) -> Any:
    """A guide at parameters that are not those of its start."""
    made = kind(model_of(d))
    with torch.no_grad():
        for k, p in enumerate(made.parameters()):
            p += 0.5 * numbers(seed + k, p.numel()).reshape(p.shape)
    return made


def law_of(guide: Any) -> tuple[Tensor, Tensor]:
    """Mean [d], and the factor [d, d] of the covariance, as the guide moves its noise."""
    zero = torch.zeros(guide.layout.size)
    factor_of = torch.func.jacrev(lambda noise: guide.move(noise)[0])
    return guide.move(zero)[0], factor_of(zero)


def bound(guide: Any, m: Tensor, precision: Tensor) -> Tensor:
    """The ELBO of N(m, precision^-1), exactly, but for a constant."""
    mean, root = law_of(guide)
    spread = (precision * (root @ root.T)).sum() + (mean - m) @ precision @ (mean - m)
    return -0.5 * spread + torch.linalg.slogdet(root)[1]


# --------------------------------------------------------------------------------------- conjugacy


@pytest.mark.parametrize(("kind", "diagonal"), [(MeanField, True), (FullRank, False)])
@pytest.mark.parametrize("d", [1, 5])
def test_one_step_to_a_normal_posterior(kind: Any, diagonal: bool, d: int) -> None:
    m, precision = 10.0 * numbers(8, d), precision_of(d, diagonal)
    guide = guide_of(kind, d)
    (-bound(guide, m, precision)).backward()
    NaturalGradient(guide, lr=1.0, retraction=False).step()
    mean, root = law_of(guide)
    torch.testing.assert_close(mean, m, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(root @ root.T @ precision, torch.eye(d), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_the_rate_is_what_is_forgotten(rate: float) -> None:
    """Precisions mix: (1 - r) S^-1 + r P."""
    precision, guide = precision_of(4, False), guide_of(FullRank, 4)
    root = law_of(guide)[1].detach()
    (-bound(guide, torch.zeros(4), precision)).backward()
    NaturalGradient(guide, lr=rate, retraction=False).step()
    after = law_of(guide)[1].detach()
    wanted = (1 - rate) * torch.linalg.inv(root @ root.T) + rate * precision
    torch.testing.assert_close(torch.linalg.inv(after @ after.T), wanted, rtol=1e-8, atol=1e-8)


def test_a_gradient_step_does_not_reach_it() -> None:
    """The control: the same gradient taken as it is."""
    precision, guide = precision_of(4, False), guide_of(FullRank, 4)
    (-bound(guide, torch.ones(4), precision)).backward()
    torch.optim.SGD(guide.parameters(), lr=1e-3).step()
    root = law_of(guide)[1].detach()
    assert float((root @ root.T @ precision - torch.eye(4)).abs().max()) > 1.0


def test_the_whole_path_from_a_program() -> None:
    """SVI with the noisy gradients of ELBO: a conjugate regression, at a rate that falls."""
    x = torch.stack([torch.ones(30), torch.linspace(0.0, 300.0, 30)], 1)
    y = x @ torch.tensor([5.0, 0.02]) + numbers(1, 30)

    def line(y: Tensor) -> None:
        w = sample("w", dist.Normal(torch.zeros(2), 10.0).to_event(1))
        with plate("rows", 30):
            observe("y", dist.Normal(x @ w, 1.0), y)

    precision = x.T @ x + 0.01 * torch.eye(2)
    guide = FullRank(line, y)
    optimizer = NaturalGradient(guide, lr=0.5)
    falling = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda n: 1.0 / (1.0 + 0.05 * n))
    SVI(elbo(line, guide), optimizer, falling, samples=8, **QUIET).run(y, steps=150)
    mean, root = (x.detach() for x in law_of(guide))
    gap = torch.linalg.cholesky(precision).T @ (mean - torch.linalg.solve(precision, x.T @ y))
    assert float(gap.abs().max()) < 0.3  # of a posterior standard deviation, in each direction
    found = torch.linalg.eigvals(root @ root.T @ precision).real
    assert float(found.min()) > 0.7 and float(found.max()) < 1.4


# ---------------------------------------------------------------------------------- finite latents


def test_one_step_to_a_finite_posterior() -> None:
    log_p, weights = torch.tensor([-1.0, 0.3, 2.0]), torch.tensor([0.2, 0.7])

    def model() -> None:
        k = sample("k", dist.Categorical(logits=torch.zeros(3)))
        with plate("n", 2):
            b = sample("b", dist.Bernoulli(weights))
        factor("f", log_p[k] + (b * torch.tensor([1.0, -2.0])).sum())

    guide = MeanField(model)
    with torch.no_grad():
        guide.logits["k"] += torch.tensor([1.0, -0.5, 0.2])
        guide.logits["b"] += torch.tensor([0.5, -1.5])
    optimizer = NaturalGradient(guide, lr=1.0)
    SVI(elbo(model, guide), optimizer, **QUIET).run(steps=1)  # enum: the gradient is exact
    torch.testing.assert_close(guide.logits["k"].softmax(0), log_p.softmax(0))
    wanted = (torch.logit(weights) + torch.tensor([1.0, -2.0])).sigmoid()
    torch.testing.assert_close(guide.logits["b"].sigmoid(), wanted)


# ---------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("kind", [MeanField, FullRank])
@pytest.mark.parametrize("retraction", [True, False])
def test_small_steps_are_the_gradient_in_the_geometry_of_kl(kind: Any, retraction: bool) -> None:
    """F^-1 g, F the second derivative of KL(q_0 || q) by differences, and g any gradient."""
    d, h, rate = 3, 1e-4, 1e-7
    guide = guide_of(kind, d)
    mean, root = (x.detach() for x in law_of(guide))
    theta = torch.nn.utils.parameters_to_vector(guide.parameters()).detach()
    active = torch.ones_like(theta, dtype=torch.bool)
    if kind is FullRank:
        active[2 * d :] = torch.ones(d, d).tril(-1).bool().flatten()

    def divergence(at: Tensor) -> float:
        torch.nn.utils.vector_to_parameters(at, guide.parameters())
        m, r = (x.detach() for x in law_of(guide))
        inverse = torch.linalg.solve_triangular(r, root, upper=False)
        gap = torch.linalg.solve_triangular(r, (m - mean)[:, None], upper=False)
        log_det = torch.linalg.slogdet(inverse)[1]
        return float(0.5 * (inverse.square().sum() + gap.square().sum() - d) - log_det)

    moves = torch.eye(len(theta))[active] * h
    fisher = torch.tensor(
        [
            [
                sum(s * t * divergence(theta + s * a + t * b) for s in (1, -1) for t in (1, -1))
                / (4 * h**2)
                for b in moves
            ]
            for a in moves
        ]
    )
    torch.nn.utils.vector_to_parameters(theta.clone(), guide.parameters())
    g = numbers(4, len(theta)) * active
    start = 0
    for p in guide.parameters():
        p.grad = g[start : start + p.numel()].reshape(p.shape).clone()
        start += p.numel()
    NaturalGradient(guide, lr=rate, retraction=retraction).step()
    after = torch.nn.utils.parameters_to_vector(guide.parameters()).detach()
    found = ((theta - after) / rate)[active]
    wanted = torch.linalg.solve(fisher, g[active])
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    assert float((found - g[active]).abs().max()) > 0.1  # the control: it is not the plain gradient


# ------------------------------------------------------------------------------- positive definite


@pytest.mark.parametrize("kind", [MeanField, FullRank])
@pytest.mark.parametrize("seed", range(4))
def test_any_gradient_leaves_a_covariance(kind: Any, seed: int) -> None:
    guide = guide_of(kind, 6, seed)
    optimizer = NaturalGradient(guide, lr=1.0)
    for step in range(20):
        before = law_of(guide)[1].detach()
        for k, p in enumerate(guide.parameters()):
            p.grad = 30.0 * numbers(97 * seed + 7 * step + k, p.numel()).reshape(p.shape)
        optimizer.step()
        after = law_of(guide)[1].detach()
        ratio = torch.linalg.svdvals(torch.linalg.solve(before, after)).square()
        assert bool(after.isfinite().all())
        assert float(ratio.min()) > 0.0 and float(ratio.max()) < 2.0 + 1e-6


@pytest.mark.parametrize("kind", [MeanField, FullRank])
def test_without_a_retraction_a_step_may_leave_them(kind: Any) -> None:
    guide = guide_of(kind, 2)
    guide.log_scale.grad = torch.tensor([-3.0, 0.5])
    with pytest.raises(ProgramError, match=r"not positive definite .*retraction=True"):
        NaturalGradient(guide, lr=1.0, retraction=False).step()


# ---------------------------------------------------------------------------------------- refusals


def test_other_guides_and_rates_are_refused() -> None:
    with pytest.raises(GuideError, match="Flow is no guide of normal laws"):
        NaturalGradient(Flow(model_of(2)))
    with pytest.raises(ValueError, match="lr is above 0"):
        NaturalGradient(MeanField(model_of(2)), lr=0.0)


def growing(rate: float = 0.05) -> Any:
    """A model with a scale to be learnt, of data with variance 10; its guide and an optimiser."""
    y = math.sqrt(10.0) * without_chance(40)
    log_scale = torch.nn.Parameter(torch.zeros(()))

    def model() -> None:
        with plate("n", 40):
            x = sample("x", dist.Normal(0.0, log_scale.exp()))
            observe("y", dist.Normal(x, 1.0), y)

    guide = MeanField(model)
    return model, guide, log_scale, torch.optim.Adam([log_scale], lr=rate)


def without_chance(n: int) -> Tensor:
    x = numbers(3, n)
    return (x - x.mean()) / x.std(correction=0)


def test_other_parameters_step_with_them() -> None:
    """Empirical Bayes: y is normal of variance s^2 + 1, which is 10 at the best s = 3."""
    model, guide, log_scale, adam = growing()
    optimizer = NaturalGradient(guide, lr=0.5, rest=adam)
    falling = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
    SVI(elbo(model, guide), optimizer, falling, samples=4, **QUIET).run(steps=300)
    assert float(log_scale.detach().exp()) == pytest.approx(3.0, abs=0.1)
    law = law_of(guide)[1].detach().diagonal()
    assert float((law - math.sqrt(0.9)).abs().max()) < 0.1
    assert [g["lr"] for g in adam.param_groups] == [g["lr"] for g in optimizer.param_groups[1:]]
    assert adam.param_groups[0]["lr"] == pytest.approx(0.05 * 0.99**300)


def test_both_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    def run(steps: int, **about: Any) -> tuple[Tensor, float]:
        model, guide, log_scale, adam = growing()
        optimizer = NaturalGradient(guide, lr=0.3, rest=adam)
        falling = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        SVI(elbo(model, guide), optimizer, falling, **QUIET).run(steps=steps, **about)
        return guide.loc.detach(), float(log_scale.detach())

    file = tmp_path / "run"
    run(7, checkpoint=file)
    (loc, scale), (wanted, end) = run(15, checkpoint=file), run(15)
    assert torch.equal(loc, wanted) and scale == end


def test_a_run_goes_on_from_a_checkpoint(tmp_path: Path) -> None:
    """There is no state but the rate, which a schedule moves as that of any optimiser."""

    def run(steps: int, **about: Any) -> Tensor:
        guide = MeanField(model_of(3))
        optimizer = NaturalGradient(guide, lr=0.5)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        target = objective(lambda: bound(guide, torch.ones(3), precision_of(3, True)))()
        SVI(target, optimizer, schedule, **QUIET).run(steps=steps, **about)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.5 * 0.9**steps)
        return torch.cat([p.detach().flatten() for p in guide.parameters()])

    file = tmp_path / "run"
    half = run(5, checkpoint=file)
    assert torch.equal(run(10, checkpoint=file), run(10))
    assert not torch.equal(half, run(10))
