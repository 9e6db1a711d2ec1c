"""Tokens that do not count, and for causal attention those that come later, reach no other."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.nn.attention import NaLaAttention, NaLaBlock, SoftAttention, SoftBlock
from pushforward.nn.attention.local import DepthwiseConv, counted

Call = Callable[[Tensor, Tensor | None], Tensor]
ABOUT: dict[str, Any] = {"dtype": torch.float64}
SOFT: dict[str, Any] = {"num_landmarks": 3, "landmark": "pool", "ridge": 0.01, "local_kernel": 3}


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(layer: nn.Module) -> Any:
    """A layer whose convolutions have weights of size one."""
    torch.manual_seed(0)
    for module in layer.modules():
        if isinstance(module, DepthwiseConv):
            nn.init.normal_(module.conv.weight)
            nn.init.normal_(module.conv.bias)
    return layer.eval()


def nala(**about: Any) -> Call:
    layer = stirred(NaLaAttention(8, 2, **about, **ABOUT))
    grid = (3, 4) if about.get("local") == "conv2d" else None
    return lambda x, pad: layer(x, key_padding_mask=pad, hw=grid)[0]  # type: ignore[no-any-return]


def block(**about: Any) -> Call:
    layer = stirred(NaLaBlock(8, 2, **about, **ABOUT))
    grid = (3, 4) if about.get("local") == "conv2d" else None
    return lambda x, pad: layer(x, pad, grid)  # type: ignore[no-any-return]


def soft(kind: type[nn.Module], **about: Any) -> Call:
    layer = stirred(kind(8, 2, **{**SOFT, **about}, **ABOUT))
    return lambda x, pad: layer(x, (3, 4), key_padding_mask=pad)  # type: ignore[no-any-return]


CALLS: dict[str, Callable[[], Call]] = {
    "NaLaAttention": nala,
    "NaLaAttention, conv1d": lambda: nala(local="conv1d"),
    "NaLaAttention, conv2d": lambda: nala(local="conv2d"),
    "NaLaAttention, causal": lambda: nala(local="conv1d", causal=True),
    "NaLaAttention, angle": lambda: nala(local="conv1d", direction="angle"),
    "NaLaBlock, conv1d": lambda: block(local="conv1d"),
    "NaLaBlock, conv2d": lambda: block(local="conv2d"),
    "SoftAttention": lambda: soft(SoftAttention),
    "SoftAttention, by rows": lambda: soft(SoftAttention, norm="token"),
    "SoftAttention, by landmarks": lambda: soft(SoftAttention, norm="landmark"),
    "SoftAttention, spaced": lambda: soft(SoftAttention, landmark="linspace"),
    "SoftAttention, blocks": lambda: soft(SoftAttention, landmark="conv", ratio=1),
    "SoftBlock": lambda: soft(SoftBlock),
    "SoftBlock, behind": lambda: soft(SoftBlock, pre_norm=False),
}


@pytest.mark.parametrize("other", [99.0, 1e200, math.inf, math.nan])
@pytest.mark.parametrize("name", CALLS)
def test_padding_reaches_no_other_token(name: str, other: float) -> None:
    call = CALLS[name]()
    x = drawn(2, 12, 8)
    pad = torch.zeros(2, 12, dtype=torch.bool)
    pad[0, 9:] = pad[1, 10:] = pad[1, 0] = True
    y = torch.where(pad[..., None], other, x)
    torch.testing.assert_close(call(y, pad)[~pad], call(x, pad)[~pad], rtol=0, atol=0)
    seen = call(torch.where(pad[..., None], 99.0, x), None)[~pad]
    assert not torch.equal(seen, call(x, None)[~pad])


@pytest.mark.parametrize(
    "make",
    [
        lambda: nala(local="conv1d"),
        lambda: nala(local="conv1d", causal=True),
        lambda: block(local="conv1d"),
        lambda: block(local="conv1d", causal=True),
    ],
)
def test_a_padded_row_is_the_row_without_its_padding(make: Callable[[], Call]) -> None:
    """As a convolution has zeros beyond the ends."""
    call, x = make(), drawn(1, 12, 8)
    pad = torch.arange(12)[None] >= 9
    torch.testing.assert_close(call(x, pad)[:, :9], call(x[:, :9], None))


@pytest.mark.parametrize("causal", [False, True])
def test_later_tokens_reach_no_earlier_one(causal: bool) -> None:
    """Also where only the call is causal, and the layer could look ahead."""
    layer = stirred(NaLaAttention(8, 2, local="conv1d", causal=causal, **ABOUT))
    x, y = drawn(1, 12, 8), drawn(1, 12, 8)
    y[:, 7:] = 99.0
    out, other = (layer(each, is_causal=True)[0] for each in (x, y))
    torch.testing.assert_close(out[:, :7], other[:, :7], rtol=0, atol=1e-12)
    assert bool(((layer(x)[0] - layer(y)[0])[:, :7].abs() > 1e-6).any()) != causal
    # each prefix alone gives the row at its end
    rows = [layer(x[:, : t + 1], is_causal=True)[0][:, -1] for t in range(12)]
    torch.testing.assert_close(torch.stack(rows, 1), out)


def test_a_causal_call_leaves_out_the_weights_that_look_ahead() -> None:
    """Of weights 1, 10, 100 the last is for the next token."""
    local = DepthwiseConv(1, "conv1d", 3)
    with torch.no_grad():
        local.conv.weight.copy_(torch.tensor([1.0, 10.0, 100.0]))
    x = torch.tensor([1.0, 2.0, 3.0])[None, :, None]
    assert local(x).flatten().tolist() == [210, 321, 32]
    assert local(x, causal=True).flatten().tolist() == [10, 21, 32]
    kept = torch.tensor([[True, False, True]])
    assert local(x, kept=kept).flatten().tolist() == [10, 301, 30]
    with pytest.raises(ValueError, match="no causal order"):
        NaLaAttention(8, 2, local="conv2d")(drawn(1, 12, 8).float(), is_causal=True, hw=(3, 4))


def test_masks_of_bools_and_of_numbers() -> None:
    pad = torch.tensor([[False, True, False]])
    kept, numbers = counted(pad), torch.zeros(1, 3).masked_fill(pad, -math.inf)
    assert kept is not None and kept.tolist() == [[True, False, True]]
    assert torch.equal(kept, torch.as_tensor(counted(numbers)))
    layer = NaLaAttention(8, 2, local="conv1d", **ABOUT)
    x = drawn(1, 3, 8)
    both = [layer(x, key_padding_mask=mask)[0] for mask in (pad, numbers)]
    assert torch.equal(*both)
    with pytest.raises(NotImplementedError, match="zeros and -inf"):
        counted(torch.tensor([[0.5, 0.0]]))
