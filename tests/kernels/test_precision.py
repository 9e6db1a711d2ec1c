"""Autocast: what promises float32, or exact whole numbers, gives the same with it as without."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pushforward.kernels.precision import as_given
from pushforward.nn.attention import (
    SoftAttention,
    gaussian_scores,
    nala_attention,
    nala_feature_maps,
    nala_step,
    nala_weights,
    newton_pinv,
    soft_attention,
)
from pushforward.nn.normalisation import UnifiedNorm
from pushforward.nn.normalisation.fusion import fuse_into
from pushforward.nn.optim import GradNormSmooth
from pushforward.nn.quantisation import (
    QConfig,
    QConv2d,
    QLinear,
    quantize_shift,
    quantize_tensor,
    shift_matmul,
)


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))


TOKENS, VALUES = 3 + drawn(1, 2, 32, 16), drawn(1, 2, 32, 8)
MARKS = TOKENS[:, :, ::4]
MATRIX = drawn(6, 6) @ drawn(6, 6).T / 6 + 0.5 * torch.eye(6)
FEW = quantize_shift(drawn(8, 64), 4, 4, rounding="nearest")
MANY = quantize_shift(drawn(8, 64), 8, 4, rounding="nearest")
WEIGHTS = quantize_tensor(drawn(64, 8), 8)


def through(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Output and gradient of a layer that draws at random."""
    torch.manual_seed(0)
    at = x.clone().requires_grad_()
    out = layer(at)
    (gradient,) = torch.autograd.grad(out, at, torch.ones_like(out))
    return out.detach(), gradient


def inverse_and_gradient() -> tuple[Tensor, Tensor]:
    at = MATRIX.clone().requires_grad_()
    out = newton_pinv(at, max_iter=40)
    (gradient,) = torch.autograd.grad(out, at, MATRIX)
    return out.detach(), gradient


def fused_bias() -> Tensor:
    torch.manual_seed(0)
    norm, line = UnifiedNorm(16).eval(), nn.Linear(16, 4)
    nn.init.normal_(norm.bias)
    fuse_into(norm, line.eval())
    return line.bias.detach()


class Squares:
    """A loss with one residual for each row."""

    def __init__(self) -> None:
        self.x = nn.Parameter(torch.ones(16))

    def per_example_losses(self) -> Tensor:
        return (drawn(32, 16) * self.x).sum(1).square()

    def __call__(self) -> Tensor:
        return self.per_example_losses().mean()


def fisher_step() -> Tensor:
    closure = Squares()
    GradNormSmooth([closure.x], hessian="fisher").step(closure)
    return closure.x.detach()


CALLS: dict[str, Callable[[], Tensor | tuple[Tensor, ...]]] = {
    "gaussian_scores": lambda: gaussian_scores(TOKENS, TOKENS),
    "newton_pinv": inverse_and_gradient,
    "soft_attention": lambda: soft_attention(TOKENS, VALUES, MARKS, ridge=0.01),
    "soft_attention by rows": lambda: soft_attention(
        TOKENS, VALUES, MARKS, ridge=0.01, norm="token"
    ),
    "nala_feature_maps": lambda: nala_feature_maps(TOKENS, TOKENS),
    "nala_attention": lambda: nala_attention(TOKENS, TOKENS, VALUES),
    "nala_attention, causal": lambda: nala_attention(TOKENS, TOKENS, VALUES, is_causal=True),
    "nala_step": lambda: nala_step(TOKENS[:, :, 0], TOKENS[:, :, 1], VALUES[:, :, 0])[0],
    "nala_weights": lambda: nala_weights(TOKENS, TOKENS),
    "shift_matmul, one product": lambda: shift_matmul(FEW, WEIGHTS),
    "shift_matmul, by groups": lambda: shift_matmul(MANY, WEIGHTS),
    "QLinear": lambda: through(QLinear(64, 8, qconfig=QConfig(8, 8, 8)), drawn(16, 64)),
    "QLinear, fake": lambda: through(
        QLinear(64, 8, qconfig=QConfig(8, 8, 8, backend="fake")), drawn(16, 64)
    ),
    "QConv2d": lambda: through(QConv2d(3, 4, 3, qconfig=QConfig(8, 8, 8)), drawn(2, 3, 8, 8)),
    "fuse_into": fused_bias,
    "GradNormSmooth": fisher_step,
}


def once(name: str) -> tuple[Tensor, ...]:
    torch.manual_seed(1)
    made = CALLS[name]()
    return made if isinstance(made, tuple) else (made,)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_nothing(name: str, dtype: torch.dtype) -> None:
    plain = once(name)
    with torch.autocast("cpu", dtype):
        cast = once(name)
    for one, other in zip(cast, plain, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


def test_the_kernel_of_a_token_with_itself_is_one() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        diagonal = gaussian_scores(TOKENS, TOKENS).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal), rtol=0, atol=1e-4)


def test_whole_numbers_beyond_half_precision() -> None:
    """127 times 127, 64 times, is 1032256: bfloat16 holds no such number."""
    ones = quantize_tensor(torch.ones(64, 1), 8)
    row = quantize_shift(torch.ones(1, 64), 8, 1, rounding="nearest")
    with torch.autocast("cpu", torch.bfloat16):
        product = shift_matmul(row, ones) / (row.scale * ones.scale)
    assert round(float(product)) == 1032256


def test_a_plain_product_is_cut_so_that_the_switch_is_seen() -> None:
    a = drawn(8, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert (a @ a.T).dtype == torch.bfloat16
        with as_given(a.device):
            assert torch.equal(a @ a.T, torch.matmul(a, a.T)) and (a @ a.T).dtype == torch.float32
        assert (a @ a.T).dtype == torch.bfloat16


def test_half_precision_tokens_are_computed_in_float32() -> None:
    half = [x.bfloat16() for x in (TOKENS, VALUES, MARKS)]
    wide = soft_attention(*(x.float() for x in half), ridge=0.01)
    with torch.autocast("cpu", torch.bfloat16):
        out = soft_attention(*half, ridge=0.01)
    assert torch.equal(out, wide.bfloat16())


TWIN = """
import torch
from pushforward.nn.attention import nala_attention, soft_attention

torch.manual_seed(0)
q, v = torch.randn(1, 2, 70, 16), torch.randn(1, 2, 70, 8)
marks = q[:, :, ::10]
for call in (
    lambda: soft_attention(q, v, marks, ridge=0.1, backend="triton"),
    lambda: nala_attention(q, q, v, backend="triton"),
):
    plain = call()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(call(), plain)
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_autocast_changes_nothing_in_triton() -> None:
    about = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-c", TWIN], env=about, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


def test_landmarks_count_their_tokens_in_float32() -> None:
    """The mean of 301 threes: bfloat16 has neither 301 nor 903."""
    layer = SoftAttention(2, 1, num_landmarks=1, landmark="pool", dtype=torch.bfloat16)
    tokens = torch.full((1, 1, 512, 2), 3.0, dtype=torch.bfloat16)
    marks, alive = layer.landmarks(tokens, None, torch.arange(512)[None] < 301)
    assert marks.flatten().tolist() == [3.0, 3.0] and alive is not None and bool(alive.all())


def test_a_layer_compiles_under_autocast() -> None:
    torch.manual_seed(0)
    torch.compiler.reset()
    layer = SoftAttention(16, 2, num_landmarks=4, landmark="pool", ridge=0.01).eval()
    x = drawn(2, 16, 16)
    compiled = torch.compile(layer, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(compiled(x), layer(x))
    torch.testing.assert_close(compiled(x), layer(x))
