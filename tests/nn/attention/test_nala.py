"""Norm-aware linear attention: acceptance checks of arXiv 2506.21137, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.digits import tokens_of_digits, trained_accuracy
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from pushforward.nn.attention import (
    NaLaAttention,
    NaLaBlock,
    nala_attention,
    nala_feature_maps,
    nala_step,
    nala_weights,
)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


Q = f([[1, 0], [3, -4], [0.6, 0.8]])[None, None]
K = f([[1, 0], [0, -1], [0.5, 0.5]])[None, None]
V = f([[1, 0], [0, 1], [2, 2]])[None, None]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def heads(n: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, ...]:
    """Queries, keys [2, 3, n, 4] and values [2, 3, n, 5]."""
    return tuple(drawn(2, 3, n, d, seed=seed + i, dtype=dtype) for i, d in enumerate((4, 4, 5)))


# --- values ---------------------------------------------------------------------------------------


def test_values() -> None:
    power = 3 * (0.5 + torch.tanh(Q.norm(dim=-1)))
    expected = f([3.78478247, 4.49972761, 3.78478247])
    torch.testing.assert_close(power[0, 0], expected, rtol=0, atol=1e-8)
    phi_q, phi_k = nala_feature_maps(Q, K)
    torch.testing.assert_close((phi_q @ phi_k.mT)[0, 0, 0], f([1, 0, 0.125]))
    expected = f([[1.11110815, 0.22222163], [0.26182573, 0.81671573], [1.33168584, 0.66339940]])
    torch.testing.assert_close(nala_attention(Q, K, V)[0, 0], expected, rtol=0, atol=1e-7)
    expected = f([[0.99999900, 0], [0.21509272, 0.78490300], [1.33168584, 0.66339940]])
    found = nala_attention(Q, K, V, is_causal=True)[0, 0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-7)


@pytest.mark.parametrize("direction", ["sign", "angle"])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_linear_is_quadratic(
    n: int, causal: bool, direction: Any, dtype: torch.dtype, atol: float
) -> None:
    q, k, v = heads(n, dtype=dtype)
    weights = nala_weights(q, k, is_causal=causal, direction=direction)
    found = nala_attention(q, k, v, is_causal=causal, direction=direction)
    torch.testing.assert_close(found, weights @ v, rtol=0, atol=atol)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 200])
def test_step_by_step(n: int) -> None:
    q, k, v = heads(n)
    state, rows = None, []
    for t in range(n):
        row, state = nala_step(q[:, :, t], k[:, :, t], v[:, :, t], state)
        rows.append(row)
    whole, last = nala_attention(q, k, v, is_causal=True, output_final_state=True)
    torch.testing.assert_close(torch.stack(rows, 2), whole, rtol=0, atol=1e-12)
    assert state is not None
    for found, expected in zip(state, last, strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("cut", [1, 64, 77])
def test_a_state_carries_the_first_part(cut: int) -> None:
    q, k, v = heads(130)
    whole = nala_attention(q, k, v, is_causal=True)
    first, state = nala_attention(
        q[:, :, :cut], k[:, :, :cut], v[:, :, :cut], is_causal=True, output_final_state=True
    )
    second = nala_attention(
        q[:, :, cut:], k[:, :, cut:], v[:, :, cut:], is_causal=True, initial_state=state
    )
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=0, atol=1e-12)
    _, state = nala_attention(q, k[:, :, :cut], v[:, :, :cut], output_final_state=True)
    found = nala_attention(q, k[:, :, cut:], v[:, :, cut:], initial_state=state)
    torch.testing.assert_close(found, nala_attention(q, k, v), rtol=0, atol=1e-12)


def test_invariances() -> None:
    q, k, v = heads(40)
    phi_q, phi_k = nala_feature_maps(q, k)
    assert float((phi_q @ phi_k.mT).min()) >= 0
    rows = nala_weights(q, k).sum(-1)
    assert float((rows - 1).abs().max()) < 1e-3 and float(rows.max()) <= 1
    found = nala_attention(q, k, v)
    torch.testing.assert_close(nala_attention(-q, -k, v), found, rtol=0, atol=1e-12)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    shuffled = nala_attention(q, k[:, :, order], v[:, :, order])
    torch.testing.assert_close(shuffled, found, rtol=0, atol=1e-12)
    assert float((nala_attention(-q, k, v) - found).abs().max()) > 0.1


def entropy(weights: Tensor) -> float:
    rows = weights / weights.sum(-1, keepdim=True)
    return float(-torch.special.xlogy(rows, rows).sum(-1).mean())


def test_the_norm_of_a_query_sharpens_its_row() -> None:
    torch.manual_seed(0)
    q = torch.randn(64, 16, dtype=torch.float64)
    k = torch.randn(256, 16, dtype=torch.float64)
    q = q / q.norm(dim=-1, keepdim=True)
    sizes, expected = (0.05, 0.25, 1.0, 4.0), (5.017, 4.910, 4.645, 4.541)
    found = [entropy(nala_weights(size * q[None, None], k[None, None])) for size in sizes]
    assert found == pytest.approx(expected, abs=1e-3)
    assert found == sorted(found, reverse=True)
    plain = [entropy(torch.relu(size * q) @ torch.relu(k).mT) for size in sizes]
    assert plain == pytest.approx([5.3114] * 4, abs=1e-4)
    assert max(plain) - min(plain) < 1e-6


def test_the_angle_form() -> None:
    unit = f([1, 0.5, 0, -0.5, -1])
    cos = f([1, 0.92387953, 0.70710678, 0.38268343, 0])
    angle = math.pi / 4 * (1 - unit)
    torch.testing.assert_close(angle.cos(), cos, rtol=0, atol=1e-8)
    q = f([[1, 0], [-1, 0]])
    phi, _ = nala_feature_maps(q, q, direction="angle")
    sign, _ = nala_feature_maps(q, q)
    torch.testing.assert_close(phi, sign, rtol=0, atol=1e-12)
    q, k, _ = heads(30)
    phi_q, phi_k = nala_feature_maps(q, k, direction="angle")
    assert min(float(phi_q.min()), float(phi_k.min())) >= 0
    size = k.abs() ** 3
    torch.testing.assert_close(phi_k.unflatten(-1, (2, 4)).norm(dim=-2), size)


def test_places_on_a_grid() -> None:
    """Weights depend on differences of places: the grid may be moved; the numerator only."""
    q, k, v = heads(6)
    found = nala_attention(q, k, v, rope=(2, 3))
    phi_q, phi_k = nala_feature_maps(q, k)
    weight = (phi_q @ phi_k.mT).sum(-1, keepdim=True) + 6e-6
    angles = []
    for row in range(2):
        for column in range(3):
            angles.append([row, column])  # d = 4: one rate, which is 1, for each axis
    angle = f(angles)[:, [0, 1]]

    def turned(phi: Tensor) -> Tensor:
        out = phi.clone()
        for half in range(2):
            for axis in range(2):
                a, b = phi[..., 4 * half + 2 * axis], phi[..., 4 * half + 2 * axis + 1]
                c, s = angle[:, axis].cos(), angle[:, axis].sin()
                out[..., 4 * half + 2 * axis] = a * c - b * s
                out[..., 4 * half + 2 * axis + 1] = a * s + b * c
        return out

    expected = turned(phi_q) @ turned(phi_k).mT @ v / weight
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_padding() -> None:
    q, k, v = heads(20)
    kept = torch.ones(2, 1, 1, 20, dtype=torch.bool)
    kept[0, ..., 15:] = False
    found = nala_attention(q, k, v, attn_mask=kept)
    alone = nala_attention(q[:1], k[:1, :, :15], v[:1, :, :15])
    torch.testing.assert_close(found[:1], alone, rtol=0, atol=1e-12)
    causal = nala_attention(q, k, v, attn_mask=kept, is_causal=True)
    expected = nala_weights(q, k, attn_mask=kept, is_causal=True) @ v
    torch.testing.assert_close(causal, expected, rtol=0, atol=1e-12)
    assert not bool(nala_attention(q, k, v, attn_mask=torch.zeros_like(kept)).any())


# --- derivatives ----------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["sign", "angle"])
@pytest.mark.parametrize("causal", [False, True])
def test_derivatives(causal: bool, direction: Any) -> None:
    q, k, v = (x[:1, :1, :5].clone().requires_grad_() for x in heads(5, seed=3))

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return nala_attention(q, k, v, is_causal=causal, direction=direction)

    torch.autograd.gradcheck(run, (q, k, v))


def test_zeros() -> None:
    q, k, v = (x.clone().requires_grad_() for x in heads(6))
    with torch.no_grad():
        q[0, 0, 0] = 0
        q[0, 0, 1, 2] = 0
        k[0, 0, 2] = 0
    for causal in (False, True):
        out = nala_attention(q, k, v, is_causal=causal)
        assert bool(out.isfinite().all()) and not bool(out[0, 0, 0].any())
        for gradient in torch.autograd.grad(out.square().sum(), (q, k, v)):
            assert bool(gradient.isfinite().all())


def test_half_precision() -> None:
    """k^3 overflows float16 from 40 on: features are taken in float32."""
    q, k, v = (50 * x for x in heads(30, dtype=torch.float32))
    for dtype in (torch.float16, torch.bfloat16):
        out = nala_attention(q.to(dtype), k.to(dtype), v.to(dtype))
        assert out.dtype == dtype
        expected = nala_attention(q.to(dtype).double(), k.to(dtype).double(), v.to(dtype).double())
        torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1.0)


# --- layers ---------------------------------------------------------------------------------------


def test_the_layer() -> None:
    torch.manual_seed(0)
    layer = NaLaAttention(16, 2, dtype=torch.float64)
    x = drawn(3, 9, 16)
    out, none = layer(x)
    assert out.shape == x.shape and none is None
    weights = layer(x, need_weights=True)[1]
    assert weights.shape == (3, 2, 9, 9)
    pad = torch.zeros(3, 9, dtype=torch.bool)
    pad[0, 6:] = True
    masked = layer(x, key_padding_mask=pad)[0]
    torch.testing.assert_close(masked[:1, :6], layer(x[:1, :6])[0])
    sequence_first = NaLaAttention(16, 2, batch_first=False, dtype=torch.float64)
    sequence_first.load_state_dict(layer.state_dict())
    torch.testing.assert_close(sequence_first(x.transpose(0, 1))[0].transpose(0, 1), out)
    order = torch.randperm(9)
    torch.testing.assert_close(layer(x[:, order])[0], out[:, order])
    shown = "16, num_heads=2, lam=3.0, tau=0.5, direction=sign, causal=False"
    assert layer.extra_repr() == shown


def test_decoding_one_token_at_a_time() -> None:
    layer = NaLaAttention(16, 2, causal=True, dtype=torch.float64)
    x = drawn(3, 9, 16)
    state, rows = None, []
    for t in range(9):
        row, state = layer.step(x[:, t], state)
        rows.append(row)
    torch.testing.assert_close(torch.stack(rows, 1), layer(x)[0])
    with pytest.raises(NotImplementedError, match="without local term"):
        NaLaAttention(16, 2, local="conv1d").step(x[:, 0])


def test_a_causal_block_does_not_look_ahead() -> None:
    block = NaLaBlock(16, 2, local="conv1d", causal=True, dtype=torch.float64)
    x = drawn(1, 12, 16)
    later = x.clone()
    later[:, 7:] += 1
    torch.testing.assert_close(block(x)[:, :7], block(later)[:, :7])
    assert float((block(x) - block(later))[:, 7:].abs().min().detach()) > 0
    free = NaLaBlock(16, 2, local="conv1d", dtype=torch.float64)
    assert float((free(x) - free(later))[:, :7].abs().max().detach()) > 1e-6


def test_a_block_on_a_grid() -> None:
    block = NaLaBlock(16, 2, local="conv2d", rope=True, dtype=torch.float64)
    assert block(drawn(2, 12, 16), hw=(3, 4)).shape == (2, 12, 16)
    for text, case in {
        "needs the grid hw of the 12": lambda: block(drawn(2, 12, 16)),
        "needs the grid hw of the 12 ": lambda: block(drawn(2, 12, 16), hw=(5, 5)),
    }.items():
        with pytest.raises(ValueError, match=text):
            case()


def test_autocast_state_and_compile() -> None:
    layer = NaLaAttention(16, 2, local="conv1d")
    x = drawn(2, 70, 16, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x)[0].dtype == torch.bfloat16
    for causal in (False, True):
        compiled = torch.compile(layer, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, is_causal=causal)[0], layer(x, is_causal=causal)[0])


def test_bad_input() -> None:
    q, k, v = heads(6)
    mask = torch.ones(6, 6, dtype=torch.bool)
    layer = NaLaAttention(16, 2)
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: nala_attention(q[..., :3], k, v), ValueError, "differ in width"),
        (lambda: nala_attention(q[:, :1], k, v), ValueError, "batches or heads differ"),
        (lambda: nala_attention(q[0], k[0], v[0]), ValueError, "tokens, width"),
        (lambda: nala_attention(q, k, v[:, :, :2]), ValueError, "as many keys as values"),
        (lambda: nala_attention(q, k, v, attn_mask=mask), NotImplementedError, "arbitrary mask"),
        (lambda: layer(drawn(2, 3, 16), attn_mask=mask), NotImplementedError, "arbitrary mask"),
        (lambda: nala_attention(q[:, :, :2], k, v, is_causal=True), ValueError, "as many queries"),
        (lambda: nala_attention(q, k, v, lam=0.0), ValueError, "lam and tau are positive"),
        (lambda: nala_attention(q, k, v, tau=-1.0), ValueError, "lam and tau are positive"),
        (lambda: nala_attention(q, k, v, direction="x"), ValueError, "'sign' or 'angle'"),  # type: ignore[call-overload]
        (lambda: nala_attention(q[..., :2], k[..., :2], v, rope=(2, 3)), ValueError, "by 4"),
        (lambda: nala_attention(q, k, v, rope=(2, 2)), ValueError, "grid of 2 x 2"),
        (lambda: nala_attention(q, k, v, rope=(2, 3), is_causal=True), ValueError, "causal order"),
        (lambda: NaLaAttention(10, 3), ValueError, "3 heads do not divide"),
        (lambda: layer(drawn(2, 3, 15)), ValueError, "query is"),
        (lambda: nala_attention(q.long(), k.long(), v), TypeError, "floating point"),
        (lambda: nala_attention(q, k, v, backend="gpu"), ValueError, "'auto', 'torch'"),  # type: ignore[call-overload]
    ]
    for case, error, text in cases:
        with pytest.raises(error, match=text):
            case()
    with pytest.warns(UserWarning, match="no derivative at zero"):
        nala_attention(q, k, v, lam=1.0)
    assert nala_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0]).shape == (2, 3, 0, 5)
    empty = nala_attention(q[:, :, :0], k[:, :, :0], v[:, :, :0], is_causal=True)
    assert empty.shape == (2, 3, 0, 5)
    assert not bool(nala_attention(q, k[:, :, :0], v[:, :, :0]).any())


# --- large ----------------------------------------------------------------------------------------


def test_memory_of_many_tokens() -> None:
    """65 536 tokens of width 64: at no time more than four times what q, k and v hold."""
    q, k, v = (torch.randn(1, 1, 65536, 64) for _ in range(3))
    with torch.profiler.profile(profile_memory=True) as profile, torch.no_grad():
        nala_attention(q, k, v)
    live, peak = 0, 0
    for event in profile.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            live += event.nbytes()
            peak = max(peak, live)
    assert 0 < peak < 4 * 3 * q.nbytes


@pytest.mark.parametrize("causal", [False, True])
def test_cost_is_linear(causal: bool) -> None:
    """Products of matrices are counted; eight times the tokens cost eight times as much."""

    def operations(n: int) -> int:
        q, k, v = (torch.randn(1, 1, n, 64) for _ in range(3))
        with FlopCounterMode(display=False) as counter:
            nala_attention(q, k, v, is_causal=causal)
        return counter.get_total_flops()

    assert operations(8192) == 8 * operations(1024) > 0


# --- training -------------------------------------------------------------------------------------


class Lookup(nn.Module):
    """Reads the value that a query identity was shown with; single-head linear attention."""

    def __init__(self, attention: Any, d: int = 8) -> None:
        super().__init__()
        self.ids, self.values = nn.Embedding(32, d), nn.Embedding(32, d)
        self.q, self.k, self.v = (nn.Linear(d, d) for _ in range(3))
        self.out = nn.Linear(d, 32)
        self.attention = attention

    def forward(self, ids: Tensor, values: Tensor, query: Tensor) -> Tensor:
        at, shown = self.ids(ids), self.values(values)
        q, k, v = self.q(self.ids(query))[:, None], self.k(at), self.v(shown)
        read: Tensor = self.attention(q[:, None], k[:, None], v[:, None])[:, 0, 0]
        out: Tensor = self.out(read)
        return out


def elu_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    phi_q, phi_k = nn.functional.elu(q) + 1, nn.functional.elu(k) + 1
    return (phi_q @ (phi_k.mT @ v)) / (phi_q @ phi_k.sum(-2)[..., None])


def lookup_accuracy(attention: Any, seed: int) -> float:
    torch.manual_seed(seed)
    net = Lookup(attention)
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)

    def batch(size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        ids = torch.rand(size, 32).argsort(-1)[:, :24]
        values = torch.randint(32, (size, 24))
        at = torch.randint(24, (size, 1))
        return ids, values, ids.gather(1, at)[:, 0], values.gather(1, at)[:, 0]

    for _ in range(1200):
        ids, values, query, answer = batch(64)
        loss = nn.functional.cross_entropy(net(ids, values, query), answer)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        ids, values, query, answer = batch(2000)
        return float((net(ids, values, query).argmax(-1) == answer).float().mean())


@pytest.mark.slow
def test_lookup() -> None:
    """Sharper than another linear attention; far from softmax attention, which solves it."""
    nala = [lookup_accuracy(nala_attention, seed) for seed in range(2)]
    elu = [lookup_accuracy(elu_attention, seed) for seed in range(2)]
    assert sum(nala) / 2 >= sum(elu) / 2 + 0.05


class Classifier(nn.Module):
    """Sixteen tokens of four pixels each, two blocks, the mean, a linear map."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, 32)
        self.place = nn.Parameter(0.3 * torch.randn(16, 32))
        self.blocks = nn.Sequential(NaLaBlock(32, 2), NaLaBlock(32, 2))
        self.norm, self.out = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.embed(tokens_of_digits(x, 4)) + self.place)
        out: Tensor = self.out(self.norm(x).mean(1))
        return out


@pytest.mark.slow
def test_training() -> None:
    torch.manual_seed(0)
    net = Classifier()
    optimizer = torch.optim.AdamW(net.parameters(), 2e-3)
    assert trained_accuracy(net, optimizer, batch=64, steps=400) >= 0.93
