"""Exponentiated gradient descent: acceptance checks of arXiv 2510.02730 on the optimiser."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.optim import ExponentiatedSGD, egd_step, init_dale_


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_a_step_by_hand() -> None:
    w, g = f([1.0, -2.0, 0.5]), f([0.3, -0.4, -1.0])
    expected = f([0.86070798, -1.63746151, 0.82436064])
    torch.testing.assert_close(egd_step(w, g, 0.5), expected, rtol=0, atol=1e-8)
    p = nn.Parameter(w)
    p.grad = g
    ExponentiatedSGD([p], 0.5).step()
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-8)


def test_signs_and_zeros_stay() -> None:
    torch.manual_seed(0)
    p = nn.Parameter(f([1.0, -2.0, 0.5, -0.01, 0.0]))
    signs = p.detach().sign()
    made = ExponentiatedSGD([p], 0.3, momentum=0.9, weight_decay=0.01, log_anchor=0.0)
    for _ in range(10_000):
        p.grad = torch.randn(5, dtype=torch.float64)
        made.step()
        assert torch.equal(p.detach().sign(), signs)
    assert bool(p.isfinite().all())


def test_it_is_mirror_descent() -> None:
    """The gradient of |w| log |w| - |w| moves by -lr g."""
    w, g = f([0.3, -1.7]), f([2.0, -0.5])
    new = egd_step(w, g, 0.1)
    torch.testing.assert_close(new.sign() * new.abs().log(), w.sign() * w.abs().log() - 0.1 * g)


def test_momentum_and_decay_by_hand() -> None:
    p = nn.Parameter(f([2.0]))
    made = ExponentiatedSGD([p], 0.1, momentum=0.5, weight_decay=0.2, log_anchor=1.0)
    log_w, m = f([2.0]).log(), 0.0
    for g in (1.0, -3.0):
        p.grad = f([g])
        made.step()
        m = 0.5 * m + g
        log_w = log_w - 0.1 * m - 0.1 * 0.2 * (log_w - 1.0)
        torch.testing.assert_close(p.detach().log(), log_w)


def test_great_exponents_are_clipped_and_counted() -> None:
    p = nn.Parameter(torch.ones(3))
    made = ExponentiatedSGD([p], 1.0)
    p.grad = torch.tensor([1e9, -1e9, 0.0])
    made.step()
    torch.testing.assert_close(p.detach().log(), torch.tensor([-5.0, 5.0, 0.0]))
    assert made.clipped == 1  # tensor, of which two entries were


def test_rates_are_fitted_without_a_transformation() -> None:
    torch.manual_seed(0)
    rate = nn.Parameter(f([0.2, 5.0]))
    made = ExponentiatedSGD([rate], 0.05)
    data = torch.distributions.Exponential(f([3.0, 0.5])).sample((2000,))
    for _ in range(1000):
        made.zero_grad()
        (-torch.distributions.Exponential(rate).log_prob(data).mean(0)).sum().backward()
        made.step()
    torch.testing.assert_close(rate.detach(), 1 / data.mean(0), rtol=1e-3, atol=0)


def test_an_initialisation_by_dale() -> None:
    w = init_dale_(torch.empty(7, 10), 0.8, 0.5, torch.Generator().manual_seed(0))
    assert bool((w[:, :8] > 0).all()) and bool((w[:, 8:] < 0).all())
    assert 0.3 < float(w.abs().log().mean().exp()) < 0.8


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: ExponentiatedSGD([torch.ones(2)], -0.1), "out of range"),
        (lambda: ExponentiatedSGD([torch.ones(2)], 0.1, momentum=1.0), "out of range"),
        (lambda: ExponentiatedSGD([torch.ones(2)], 0.1, clip_exponent=0.0), "out of range"),
        (lambda: ExponentiatedSGD([torch.zeros(2)], 0.1, freeze_zero=False), "zero"),
        (lambda: init_dale_(torch.empty(3)), "a matrix"),
        (lambda: init_dale_(torch.empty(3, 2), 1.5), "a share"),
    ],
)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_sparse_gradients() -> None:
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2).to_sparse()
    with pytest.raises(RuntimeError, match="no sparse gradients"):
        ExponentiatedSGD([p], 0.1).step()
