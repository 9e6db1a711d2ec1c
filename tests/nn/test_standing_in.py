"""Layers of ours inside of torch's transformers, which have a way past their children."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.attention import NaLaAttention, NaLaBlock, SoftBlock
from pushforward.nn.normalisation import (
    L1LayerNorm,
    UnifiedNorm,
    convert_layernorm,
    fuse_unified_norm,
)
from pushforward.nn.quantisation import QConfig, QLinear, convert_to_integer_training

X = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))


def encoder_layer(norm_first: bool = False, **about: Any) -> Any:
    torch.manual_seed(0)
    given = {"dim_feedforward": 16, "batch_first": True, "norm_first": norm_first, **about}
    return nn.TransformerEncoderLayer(8, 2, **given)


def spoilt(module: nn.Module) -> Any:
    """Normalisations with other weights and statistics than at the start, in evaluation mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for each in module.modules():
            if isinstance(each, UnifiedNorm | L1LayerNorm):
                for tensor in (each.weight, each.bias, getattr(each, "running_var", None)):
                    if tensor is not None:
                        tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return module.eval()


def by_parts(layer: Any, x: Tensor) -> Tensor:
    """What an encoder layer is, by its children, without masks."""

    def attended(x: Tensor) -> Tensor:
        out: Tensor = layer.self_attn(x, x, x, need_weights=False)[0]
        return out

    def fed(x: Tensor) -> Tensor:
        out: Tensor = layer.linear2(layer.activation(layer.linear1(x)))
        return out

    if layer.norm_first:
        x = x + attended(layer.norm1(x))
        return x + fed(layer.norm2(x))
    x = layer.norm1(x + attended(x))
    out: Tensor = layer.norm2(x + fed(x))
    return out


def with_unified(layer: Any) -> Any:
    layer.norm1, layer.norm2 = UnifiedNorm(8), UnifiedNorm(8)
    return layer


def with_l1(layer: Any) -> Any:
    layer.norm1, layer.norm2 = L1LayerNorm(8), L1LayerNorm(8)
    return layer


def with_quantised(layer: Any) -> Any:
    layer.linear1, layer.linear2 = QLinear(8, 16), QLinear(16, 8)
    return layer


def with_nala(layer: Any) -> Any:
    layer.self_attn = NaLaAttention(8, 2)
    return layer


def stored(layer: Any) -> Any:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [lambda layer: layer, copy.deepcopy, stored])
@pytest.mark.parametrize("norm_first", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        with_unified,
        with_l1,
        with_quantised,
        with_nala,
        convert_layernorm,
        convert_to_integer_training,
    ],
)
def test_an_encoder_layer_calls_what_stands_in_it(
    change: Callable[[Any], Any], norm_first: bool, copied: Callable[[Any], Any]
) -> None:
    """In evaluation, without gradients, where torch would take its own kernel."""
    layer = copied(spoilt(change(encoder_layer(norm_first))))
    with torch.no_grad():
        expected = by_parts(layer, X)
        torch.testing.assert_close(layer(X), expected)
    torch.testing.assert_close(layer(X).detach(), expected)


def test_torch_itself_calls_no_child() -> None:
    """The control: a child of ours that torch does not know of is left out."""

    class Negative(nn.LayerNorm):
        def forward(self, x: Tensor) -> Tensor:
            return -super().forward(x)

    layer = encoder_layer().eval()
    with torch.no_grad():
        before = layer(X)
        layer.norm2 = Negative(8)
        assert torch.equal(layer(X), before)
        assert not torch.allclose(by_parts(layer, X), before)


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("change", [convert_layernorm, convert_to_integer_training])
def test_a_converted_stack_takes_padding(change: Callable[[Any], Any], grad: bool) -> None:
    """A stack that was made for nested tensors; padded rows are what they are alone.

    Quantised layers have one scale for all tokens, and the padded ones have theirs of one batch.
    """
    stack = spoilt(change(nn.TransformerEncoder(encoder_layer(), 2)))
    assert not stack.use_nested_tensor
    pad = torch.arange(8)[None] >= torch.tensor([8, 6, 8])[:, None]
    with torch.set_grad_enabled(grad):
        out = stack(X, src_key_padding_mask=pad)
        layer_by_layer = X
        for layer in stack.layers:
            layer_by_layer = layer(layer_by_layer, src_key_padding_mask=pad)
        torch.testing.assert_close(out[~pad], layer_by_layer[~pad])
        if change is convert_layernorm:
            torch.testing.assert_close(out[1:2, :6], stack(X[1:2, :6]))


def test_linear_attention_in_a_stack_with_masks() -> None:
    """Rows with padding are what they are without; a causal mask lets no token look ahead."""
    layer = with_nala(encoder_layer()).eval()
    stack: Any = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    pad = torch.arange(8)[None] >= torch.tensor([8, 6, 8])[:, None]
    causal = nn.Transformer.generate_square_subsequent_mask(8)
    later = torch.cat([X[:, :5], X[:, 5:] + 9], 1)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            out = stack(X, src_key_padding_mask=pad)
            torch.testing.assert_close(out[1:2, :6], stack(X[1:2, :6]))
            assert not torch.allclose(out, stack(X))
            ahead = [stack(x, mask=causal, is_causal=True)[:, :5] for x in (X, later)]
            torch.testing.assert_close(*ahead)
            torch.testing.assert_close(ahead[0], stack(X[:, :5], mask=causal[:5, :5]))
    window = causal.clone()
    window[0, 1] = 0
    with pytest.raises(NotImplementedError, match="arbitrary mask"):
        stack(X, mask=window)
    backwards = NaLaAttention(8, 2, causal=True).eval()
    x, y = backwards(X, is_causal=False)[0], backwards(later, is_causal=False)[0]
    torch.testing.assert_close(x[:, :5], y[:, :5])
    assert math.isfinite(float(out.detach().sum()))


class Twice(nn.Module):
    """A normalisation that two of our blocks' kinds of attention read, and one that cannot be."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.other = UnifiedNorm(8), UnifiedNorm(8)
        self.first, self.second = NaLaAttention(8, 2), NaLaAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        z = self.other(x)
        out: Tensor = self.first(y, y, y)[0] + self.second(z, key=x, value=x)[0]
        return out


SOFT: dict[str, Any] = {"num_landmarks": 2, "landmark": "pool", "ridge": 0.1}
FUSED: dict[str, tuple[Callable[[], nn.Module], list[str]]] = {
    "encoder layer": (lambda: encoder_layer(True), []),
    "encoder layer, behind": (lambda: encoder_layer(False), ["norm1", "norm2"]),
    "encoder": (
        lambda: nn.TransformerEncoder(
            encoder_layer(True), 2, nn.LayerNorm(8), enable_nested_tensor=False
        ),
        ["norm"],
    ),
    "encoder in a net": (lambda: nn.Sequential(nn.Linear(8, 8), encoder_layer(True)), []),
    "encoder with our attention": (lambda: with_nala(encoder_layer(True)), ["self_attn.norm"]),
    "NaLaBlock": (lambda: NaLaBlock(8, 2), ["attention.norm"]),
    "NaLaBlock, bare": (lambda: NaLaBlock(8, 2, gate=False), []),
    "NaLaBlock, local": (lambda: NaLaBlock(8, 2, gate=False, local="conv1d"), []),
    "NaLaBlock, no bias": (lambda: NaLaBlock(8, 2, gate=False, bias=False), []),
    "SoftBlock": (lambda: SoftBlock(8, 2, **SOFT), []),
    "SoftBlock, local": (lambda: nn.Sequential(SoftBlock(8, 2, **SOFT), nn.Linear(8, 8)), []),
    "self and cross": (Twice, ["other", "first.norm", "second.norm"]),
    "quantised": (lambda: nn.Sequential(nn.LayerNorm(8), QLinear(8, 4)), ["0"]),
    "weight norm": (
        lambda: nn.Sequential(
            nn.LayerNorm(8), nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
        ),
        ["0"],
    ),
}


@pytest.mark.filterwarnings("ignore:not fused")
@pytest.mark.parametrize("name", FUSED)
def test_fusion_of_blocks(name: str) -> None:
    """It changes no output, with gradients or without, and leaves what has other readers."""
    make, left = FUSED[name]
    torch.manual_seed(0)
    net = spoilt(convert_layernorm(make()))
    with torch.no_grad():
        before = net(X)
    fused = fuse_unified_norm(copy.deepcopy(net))
    found = [n for n, m in fused.named_modules() if isinstance(m, UnifiedNorm)]
    assert sorted(found) == sorted(left)
    for mode in (torch.no_grad, torch.enable_grad):
        with mode():
            torch.testing.assert_close(fused(X), before, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for each in net.modules():
            if isinstance(each, UnifiedNorm):
                each.running_var.fill_(9.0)
        assert not torch.allclose(net(X), before)


@pytest.mark.filterwarnings("ignore:not fused")
def test_fusion_of_a_decoder() -> None:
    """The normalisation that cross-attention's query reads stays."""
    torch.manual_seed(0)
    layer = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    net = spoilt(convert_layernorm(nn.TransformerDecoder(layer, 2)))
    memory = X.flip(0)
    before = net(X, memory)
    fuse_unified_norm(net)
    found = [n for n, m in net.named_modules() if isinstance(m, UnifiedNorm)]
    assert found == ["layers.0.norm2", "layers.1.norm2"]
    torch.testing.assert_close(net(X, memory), before, rtol=1e-4, atol=1e-5)


def test_the_few_bits_are_those_of_the_config() -> None:
    """An encoder layer with two bits is not the one with floating point weights."""
    layer = encoder_layer().eval()
    with torch.no_grad():
        before = layer(X)
        convert_to_integer_training(layer, QConfig(2, 2, 2), eight_bits=())
        assert float((layer(X) - before).abs().max()) > 0.05
