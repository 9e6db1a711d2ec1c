"""Softmax-free attention: acceptance checks of arXiv 2110.11945 and 2207.03341, in float64."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from support.digits import tokens_of_digits, trained_accuracy
from torch import Tensor, nn

from pushforward.nn.attention import (
    SoftAttention,
    SoftBlock,
    gaussian_scores,
    newton_pinv,
    soft_attention,
)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


Q = f([[0, 0], [1, 0], [0, 1], [1, 1]])[None, None]
MARKS = f([[0, 0], [1, 1]])[None, None]
V = f([[1, 0], [0, 1], [1, 1], [2, -1]])[None, None]
EYE = torch.eye(2, dtype=torch.float64)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def dense(q: Tensor, marks: Tensor, ridge: float = 0.0) -> Tensor:
    """S [..., n, n], by torch's inverse."""
    p, a = gaussian_scores(q, marks), gaussian_scores(marks, marks)
    return p @ torch.linalg.inv(a + ridge * torch.eye(a.shape[-1], dtype=a.dtype)) @ p.mT


# --- values ---------------------------------------------------------------------------------------


def test_values() -> None:
    a = gaussian_scores(MARKS, MARKS)[0, 0]
    assert float(a[0, 1]) == pytest.approx(0.3678794412, abs=1e-10)
    inverse = newton_pinv(a)
    assert inverse[0].tolist() == pytest.approx([1.1565176427, -0.4254590641], abs=1e-9)
    torch.testing.assert_close(inverse @ a, EYE, rtol=0, atol=1e-9)
    cases: list[tuple[dict[str, Any], list[list[float]]]] = [
        (
            {"ridge": 0.01},
            [[2.66976522, 0.90183169], [2.62799758, 0.59082660], [3.07174192, 0.34579748]],
        ),
        ({}, [[2.68832588, 0.91130831], [2.64705343, 0.59561708], [3.09492769, 0.34612690]]),
        (
            {"norm": "landmark"},
            [[1.96532370, 0.66621976], [1.93515112, 0.43543097], [2.26257344, 0.25303904]],
        ),
    ]
    for settings, (first, middle, last) in cases:
        found = soft_attention(Q, V, MARKS, **settings)[0, 0]
        expected = f([first, middle, middle, last])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-8)


def test_the_edge_of_convergence() -> None:
    """From 2 A / |A|_1^2 a matrix with equal row sums is never inverted; that start is refused."""
    a = gaussian_scores(MARKS, MARKS)[0, 0]
    x = 2 * a / a.abs().sum(0).max() ** 2
    for _ in range(20):
        x = 2 * x - x @ a @ x
    assert x[0].tolist() == pytest.approx([0.7909883534, -0.7909883535], abs=1e-9)
    with pytest.raises(ValueError, match=r"0 < alpha < 2"):
        newton_pinv(a, alpha_scale=2.0)


def test_all_tokens_as_landmarks() -> None:
    """Then S is the kernel itself, and the error falls with every step."""
    q = drawn(1, 1, 12, 4)
    kernel, v = gaussian_scores(q, q), torch.eye(12, dtype=torch.float64)[None, None]
    errors = []
    for steps in range(4, 27):
        found = soft_attention(q, v, q, scale=1.0, max_iter=steps)
        errors.append(float((found - kernel).norm() / kernel.norm()))
    assert all(b <= a or b < 1e-12 for a, b in pairwise(errors))
    assert errors[25 - 4] < 1e-10
    diagonal = kernel[0, 0].diagonal()
    torch.testing.assert_close(diagonal, torch.ones(12, dtype=torch.float64))


def test_more_landmarks_come_closer() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 2, dtype=torch.float64)
    kernel, order = gaussian_scores(x, x), torch.randperm(256)
    for m, bound in ((8, 0.25), (32, 0.06), (64, 0.01)):
        found = dense(x, x[order[:m]], ridge=1e-9)
        assert float((found - kernel).norm() / kernel.norm()) <= bound


# --- Newton's inverse -----------------------------------------------------------------------------


def spd(kappa: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """Sixty-four symmetric matrices [64, 49, 49] with log-spaced spectra."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 49, 49, dtype=torch.float64))[0]
    values = torch.logspace(-math.log10(kappa), 0, 49, dtype=torch.float64)
    return (basis * values @ basis.mT).to(dtype)


@pytest.mark.parametrize(("kappa", "steps", "bound"), [(100, 20, 1e-4), (1000, 30, 3e-3)])
def test_residual_in_float32(kappa: float, steps: int, bound: float) -> None:
    a = spd(kappa)
    residual = a @ newton_pinv(a, steps) - torch.eye(49)
    assert float(residual.abs().max()) < bound
    if kappa == 1000:  # twenty steps are not enough
        assert float((a @ newton_pinv(a) - torch.eye(49)).abs().max()) > 0.1


def test_early_stop() -> None:
    a = spd(10, torch.float64)
    found = newton_pinv(a, 60, tol=1e-3)
    residual = float((a @ found - torch.eye(49, dtype=torch.float64)).abs().max())
    assert 1e-12 < residual < 1e-3


def test_derivative_of_an_inverse() -> None:
    """Also of one that is not symmetric, and once more."""
    for a in (spd(30, torch.float64)[:2], drawn(2, 4, 4) + 5 * torch.eye(4, dtype=torch.float64)):
        seed = drawn(*a.shape, seed=1)
        with_newton, with_torch = (a.clone().requires_grad_() for _ in range(2))
        (newton_pinv(with_newton, 40) * seed).sum().backward()
        (torch.linalg.inv(with_torch) * seed).sum().backward()
        assert with_newton.grad is not None and with_torch.grad is not None
        gap = (with_newton.grad - with_torch.grad).norm() / with_torch.grad.norm()
        assert float(gap) < 1e-10
    small = (drawn(3, 3) / 4 + torch.eye(3, dtype=torch.float64)).requires_grad_()
    torch.autograd.gradcheck(lambda a: newton_pinv(a, 40), small)
    torch.autograd.gradgradcheck(lambda a: newton_pinv(a, 40), small)
    lanes = torch.func.vmap(lambda a: newton_pinv(a, 40))(spd(30, torch.float64)[:3])
    torch.testing.assert_close(lanes, newton_pinv(spd(30, torch.float64)[:3], 40))


def test_equal_landmarks() -> None:
    marks = MARKS[:, :, [0, 0, 1]]
    found = soft_attention(Q.float(), V.float(), marks.float(), ridge=0.01)
    assert bool(found.isfinite().all())
    expected = dense(Q / 2**0.25, marks, 0.01) @ V
    torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-3)
    assert not bool(newton_pinv(torch.full((2, 2), math.nan)).isfinite().any())


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "landmark", "token"])
def test_derivatives(norm: Any) -> None:
    q, v, marks = drawn(1, 2, 5, 3), drawn(1, 2, 5, 2, seed=1), drawn(1, 2, 3, 3, seed=2)

    def run(q: Tensor, v: Tensor, marks: Tensor) -> Tensor:
        return soft_attention(q, v, marks, norm=norm, ridge=0.1, max_iter=30)

    torch.autograd.gradcheck(run, tuple(x.requires_grad_() for x in (q, v, marks)))


def matrix(n: int, norm: Any = None, m: int = 16) -> Tensor:
    """S [n, n] of n tokens of width 8 with m landmarks among them."""
    q = drawn(1, 1, n, 8)
    eye = torch.eye(n, dtype=torch.float64)[None, None]
    marks = q[:, :, torch.linspace(0, n - 1, m).round().long()] * 8**-0.25
    return soft_attention(q, eye, marks, norm=norm, max_iter=40)[0, 0]


def test_symmetric_and_positive() -> None:
    s = matrix(64)
    torch.testing.assert_close(s, s.mT, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(s).min()) >= -1e-9


def test_spectral_norms() -> None:
    def size(s: Tensor) -> float:
        return float(torch.linalg.matrix_norm(s, 2))

    assert size(matrix(256, "token")) == pytest.approx(1, abs=1e-6)
    assert size(matrix(256)) > 2 * size(matrix(256, "landmark"))
    assert size(matrix(1024)) > 2 * size(matrix(256))


def test_rows_that_cannot_be_normalised_are_counted() -> None:
    """A token far from every landmark has a row sum of nothing."""
    layer = SoftAttention(2, 1, 2, "learned", norm="token", dtype=torch.float64)
    x = torch.cat([drawn(1, 4, 2), 1e3 * torch.ones(1, 1, 2, dtype=torch.float64)], 1)
    assert bool(layer(x).isfinite().all())
    assert int(layer.clamped) >= 1


def test_each_datum_alone_and_any_order() -> None:
    q, v, marks = (x.float() for x in (drawn(3, 2, 20, 4), drawn(3, 2, 20, 5), drawn(3, 2, 6, 4)))
    whole = soft_attention(q, v, marks)
    for i in range(3):
        one = slice(i, i + 1)
        alone = soft_attention(q[one], v[one], marks[one])
        torch.testing.assert_close(whole[one], alone, rtol=0, atol=1e-5)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    shuffled = soft_attention(q.double()[:, :, order], v.double()[:, :, order], marks.double())
    expected = soft_attention(q.double(), v.double(), marks.double())[:, :, order]
    torch.testing.assert_close(shuffled, expected, rtol=0, atol=1e-9)


def test_half_precision() -> None:
    q, v, marks = (20 * x.half() for x in (Q.float(), V.float(), MARKS.float()))
    out = soft_attention(q, v, marks)
    assert out.dtype == torch.float16
    expected = soft_attention(q.double(), v.double(), marks.double())
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2)


# --- layers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("norm", [None, "landmark", "token"])
@pytest.mark.parametrize("landmark", ["conv", "pool", "linspace", "learned"])
def test_the_layer(landmark: Any, norm: Any) -> None:
    torch.manual_seed(0)
    ratio = 2 if landmark in ("conv", "pool") else None
    layer = SoftAttention(8, 2, 6, landmark, ratio, norm, ridge=0.01, local_kernel=3)
    x = torch.randn(3, 24, 8)
    out = layer(x, hw=(4, 6))
    assert out.shape == x.shape
    first = SoftAttention(
        8, 2, 6, landmark, ratio, norm, ridge=0.01, local_kernel=3, batch_first=False
    )
    first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(first(x.transpose(0, 1), hw=(4, 6)).transpose(0, 1), out)
    torch.compiler.reset()
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, hw=(4, 6)), out)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x, hw=(4, 6)).dtype == torch.bfloat16
    out.sum().backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in layer.parameters())


def test_blocks_of_a_grid() -> None:
    layer = SoftAttention(4, 1, landmark="pool", ratio=2, dtype=torch.float64)
    x = torch.arange(16, dtype=torch.float64).reshape(1, 1, 16, 1).expand(1, 1, 16, 4)
    found, _ = layer.landmarks(x, (4, 4), None)
    assert found[0, 0, :, 0].tolist() == [2.5, 4.5, 10.5, 12.5]
    found, _ = layer.landmarks(x, None, None)
    assert found[0, 0, :, 0].tolist() == [0.5 + 2 * i for i in range(8)]


@pytest.mark.parametrize("norm", [None, "landmark", "token"])
def test_padding(norm: Any) -> None:
    layer = SoftAttention(8, 2, 4, "pool", norm=norm, dtype=torch.float64)
    x = drawn(2, 12, 8)
    pad = torch.zeros(2, 12, dtype=torch.bool)
    pad[0, 9:] = True
    half = SoftAttention(8, 2, 3, "pool", norm=norm, dtype=torch.float64)
    half.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x, key_padding_mask=pad)[:1, :9], half(x[:1, :9]))
    bias = layer.out_proj.bias.expand(12, 8)
    torch.testing.assert_close(layer(x, key_padding_mask=~pad & True | True)[0], bias)


def test_blocks() -> None:
    for pre in (True, False):
        block = SoftBlock(8, 2, pre_norm=pre, num_landmarks=4, landmark="pool", ridge=0.01)
        assert block(torch.randn(2, 12, 8)).shape == (2, 12, 8)
    assert "landmark=pool, norm=None, ridge=0.01" in repr(block)


def test_bad_input() -> None:
    layer = SoftAttention(8, 2, landmark="pool", ratio=2)
    x = torch.randn(1, 12, 8)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: soft_attention(MARKS, MARKS, Q), ValueError, "more landmarks than tokens"),
        (lambda: layer(x, hw=(3, 4)), ValueError, "2 x 2 do not tile"),
        (lambda: SoftAttention(8, 2, 5, "pool")(x), ValueError, "12 tokens do not divide into 5"),
        (lambda: SoftAttention(8, 2, 13, "pool")(x), ValueError, "12 tokens do not divide"),
        (lambda: SoftAttention(8, 2), ValueError, "need a ratio"),
        (lambda: SoftAttention(8, 2, ratio=2)(x), ValueError, "need the grid"),
        (lambda: newton_pinv(EYE, alpha_scale=0.0), ValueError, "0 < alpha"),
        (lambda: newton_pinv(torch.ones(2, 3)), ValueError, "square matrix"),
        (lambda: newton_pinv(EYE, max_iter=0), ValueError, "at least one step"),
        (lambda: newton_pinv(EYE, ridge=-1.0), ValueError, "not negative"),
        (lambda: newton_pinv(EYE.long()), TypeError, "floating point"),
        (lambda: layer(x, is_causal=True), NotImplementedError, "no causal"),
        (lambda: layer(x, attn_mask=x), NotImplementedError, "no causal"),
        (lambda: soft_attention(Q, V, MARKS, norm="row"), ValueError, "'landmark' or 'token'"),  # type: ignore[arg-type]
        (lambda: soft_attention(Q, V[:, :, :2], MARKS), ValueError, "tokens differ"),
        (lambda: soft_attention(Q, V, MARKS[..., :1]), ValueError, "differ in width"),
        (lambda: SoftAttention(10, 3), ValueError, "3 heads do not divide"),
        (lambda: layer(torch.randn(1, 12, 7)), ValueError, "is expected"),
    ]
    for case, error, text in cases:
        with pytest.raises(error, match=text):
            case()
    assert soft_attention(Q[:0], V[:0], MARKS[:0]).shape == (0, 1, 4, 2)


# --- training -------------------------------------------------------------------------------------


class SoftmaxBlock(nn.Module):
    """The same block with ordinary attention."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.attention = nn.MultiheadAttention(32, 2, batch_first=True)
        self.feed = nn.Sequential(nn.Linear(32, 128), nn.GELU(), nn.Linear(128, 32))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x)
        x = x + self.attention(h, h, h, need_weights=False)[0]
        out: Tensor = x + self.feed(self.norms[1](x))
        return out


class Classifier(nn.Module):
    """Sixty-four tokens of one pixel, two blocks, the mean, a linear map."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 32)
        self.place = nn.Parameter(0.3 * torch.randn(64, 32))
        self.blocks = nn.Sequential(block(), block())
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(tokens_of_digits(x, 1)) + self.place)
        out: Tensor = self.out(self.norm(x).mean(1))
        return out


def digits_accuracy(block: Any) -> float:
    torch.manual_seed(0)
    net = Classifier(block)
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    return trained_accuracy(net, optimizer, batch=64, steps=300, clip=1.0)


def soft_block(norm: Any) -> Any:
    return lambda: SoftBlock(32, 2, num_landmarks=16, landmark="pool", ridge=0.01, norm=norm)


@pytest.mark.slow
def test_training() -> None:
    plain, softmax = digits_accuracy(soft_block(None)), digits_accuracy(SoftmaxBlock)
    assert plain >= 0.78 and plain >= softmax - 0.05
    assert digits_accuracy(soft_block("landmark")) >= 0.70
