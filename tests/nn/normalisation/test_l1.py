"""L1 normalisation: acceptance checks of arXiv 2411.10948, figures computed by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward.nn.normalisation import L1BatchNorm1d, L1BatchNorm2d, L1LayerNorm, l1_layer_norm
from pushforward.nn.normalisation.l1 import GAUSSIAN


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def test_rows_by_hand() -> None:
    x = f([[1, 2], [2, -1], [4, 0], [5, 3]]).requires_grad_()
    norm = L1BatchNorm1d(2, eps=1e-12, dtype=torch.float64)
    out = norm(x)
    expected = f([[-4, 2], [-2, -4], [2, -2], [4, 4]]) / 3
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-10)
    out.backward(f([[1, 0], [0, 1], [2, -1], [-1, 0.5]]))
    gradient = f([[1, -0.75], [-5, 5.25], [11, -6.75], [-7, 2.25]]) / 9
    assert x.grad is not None
    torch.testing.assert_close(x.grad, gradient, rtol=0, atol=1e-8)


def test_running_statistics() -> None:
    norm = L1BatchNorm1d(2, momentum=0.5, dtype=torch.float64)
    norm(f([[1, 2], [2, -1], [4, 0], [5, 3]]))
    torch.testing.assert_close(norm.running_mean, f([1.5, 0.5]))
    torch.testing.assert_close(norm.running_deviation, f([1.25, 1.25]))
    norm.eval()
    out = norm(f([[1.5, 0.5], [2.75, 1.75]]))
    torch.testing.assert_close(out, f([[0, 0], [1, 1]]), rtol=0, atol=2e-5)
    again = L1BatchNorm1d(2, dtype=torch.float64)
    again.load_state_dict(norm.state_dict())
    assert torch.equal(again.eval()(f([[3.0, 4.0]])), norm(f([[3.0, 4.0]])))


def test_normal_numbers() -> None:
    """The deviation of 10^6 standard normal numbers is sqrt(2 / pi) to 4 standard errors."""
    torch.manual_seed(0)
    x = torch.randn(1, 10**6, dtype=torch.float64)
    plain = l1_layer_norm(x, (10**6,), eps=1e-12)
    assert float((x - x.mean()).std() / plain.std()) == pytest.approx(0.7979, abs=0.002)
    scaled = l1_layer_norm(x, (10**6,), eps=1e-12, gaussian_scale=True)
    assert float(scaled.var()) == pytest.approx(1, abs=0.006)
    torch.testing.assert_close(plain, scaled * GAUSSIAN)


@pytest.mark.parametrize("scaled", [False, True])
def test_gradients(scaled: bool) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, 2, 5, dtype=torch.float64, requires_grad=True)
    layer = L1LayerNorm((2, 5), gaussian_scale=scaled, dtype=torch.float64)
    batch = L1BatchNorm2d(4, gaussian_scale=scaled, dtype=torch.float64)
    assert torch.autograd.gradcheck(layer, (x,)) and torch.autograd.gradcheck(batch, (x,))
    batch.eval()
    assert torch.autograd.gradcheck(batch, (x,))


def test_layers_agree() -> None:
    """Batch normalisation of channels is layer normalisation of the transposed."""
    torch.manual_seed(0)
    x = torch.randn(6, 3, 4)
    batch = L1BatchNorm1d(3, affine=False, track_running_stats=False)
    rows = x.transpose(0, 1).flatten(1)
    expected = l1_layer_norm(rows, (24,)).unflatten(1, (6, 4)).transpose(0, 1)
    torch.testing.assert_close(batch(x), expected)
    assert torch.equal(batch.eval()(x), batch(x))


def test_settings() -> None:
    layer = L1LayerNorm(6, elementwise_affine=False)
    assert layer.weight is None and layer.bias is None and not list(layer.parameters())
    assert L1LayerNorm(6, bias=False).bias is None
    half = torch.randn(2, 6).to(torch.bfloat16)
    assert L1LayerNorm(6, dtype=torch.bfloat16)(half).dtype == torch.bfloat16
    assert repr(layer) == "L1LayerNorm((6,), eps=1e-05, gaussian_scale=False)"
    assert L1LayerNorm((2, 3))(torch.zeros(0, 2, 3)).shape == (0, 2, 3)
    assert not L1LayerNorm(6)(torch.ones(2, 6)).any()
    compiled = torch.compile(L1LayerNorm(6), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(torch.ones(2, 6)), torch.zeros(2, 6))


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: L1LayerNorm(4)(torch.zeros(2, 3)), ValueError, "does not end with"),
        (lambda: L1LayerNorm(4)(torch.zeros(2, 4).int()), TypeError, "torch.int32"),
        (lambda: L1LayerNorm(4, eps=0.0), ValueError, "eps is positive"),
        (lambda: L1BatchNorm1d(4, eps=-1.0), ValueError, "eps is positive"),
        (lambda: L1BatchNorm1d(4)(torch.zeros(1, 4)), ValueError, "one value per channel"),
        (lambda: L1BatchNorm1d(4)(torch.zeros(2, 3)), ValueError, "4 channels"),
        (lambda: L1BatchNorm2d(4)(torch.zeros(2, 4, 3)), ValueError, "4 dimensions"),
        (lambda: L1BatchNorm1d(4)(torch.zeros(2, 4).long()), TypeError, "torch.int64"),
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
