"""Compare the Triton kernels of one part with float64: python triton_twins.py PART DEVICE."""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pushforward.nn.attention import nala_attention, soft_attention
from pushforward.nn.normalisation import EvoNorm, UnifiedNorm, evonorm, l1_layer_norm
from pushforward.nn.quantisation import quantize_shift, quantize_tensor, shift_matmul

Function = Callable[..., Tensor]


def compare(function: Function, inputs: list[Tensor], limit: float) -> None:
    """Output and gradients of the Triton kernel in float32 against torch in float64.

    Errors are relative to the greatest entry, and to no less than that of the output: a gradient
    that cancels is as exact as what cancels.
    """
    results = []
    for backend, dtype in (("torch", torch.float64), ("triton", torch.float32)):
        own = [x.to(dtype).clone().requires_grad_() for x in inputs]
        out = function(*own, backend=backend)
        torch.manual_seed(1)
        weight = torch.randn(out.shape).to(out.device, dtype)
        gradients = torch.autograd.grad((out * weight).sum(), own)
        results.append([out.detach(), *gradients])
    for exact, fast in zip(*results, strict=True):
        size = max(float(exact.abs().max()), float(results[0][0].abs().max()), 1e-3)
        error = float((exact - fast).abs().max()) / size
        assert error < limit, (function, [list(x.shape) for x in inputs], error)


def nala(device: str) -> None:
    sizes = ((130, 130, 8, 5), (64, 64, 16, 16), (1, 1, 4, 4), (70, 33, 20, 7))
    for causal in (False, True):
        for n, m, d, e in sizes:
            if causal and n != m:
                continue
            q, k, v = (torch.randn(2, 2, a, b, device=device) for a, b in ((n, d), (m, d), (m, e)))
            q[0, 0, 0] = 0
            k[0, 0, 0, 1] = 0

            def attention(
                q: Tensor, k: Tensor, v: Tensor, backend: str, c: bool = causal
            ) -> Tensor:
                return nala_attention(q, k, v, is_causal=c, backend=backend)

            compare(attention, [q, k, v], 1e-5)


def soft(device: str) -> None:
    def attention(q: Tensor, v: Tensor, marks: Tensor, backend: str) -> Tensor:
        return soft_attention(q, v, marks, norm="landmark", ridge=0.1, backend=backend)

    for n, m, d, e in ((130, 6, 8, 5), (64, 16, 16, 16), (1, 1, 4, 4), (70, 33, 20, 7)):
        q, v, marks = (torch.randn(2, 2, a, b, device=device) for a, b in ((n, d), (n, e), (m, d)))
        compare(attention, [q, v, marks], 1e-4)


def l1(device: str) -> None:
    for rows, n in ((3, 5), (1, 1), (7, 64), (2, 1000)):
        for scaled in (False, True):

            def norm(x: Tensor, backend: str, s: bool = scaled, n: int = n) -> Tensor:
                return l1_layer_norm(x, (n,), gaussian_scale=s, backend=backend)

            compare(norm, [torch.randn(rows, n, device=device)], 1e-5)


def shiftquant(device: str) -> None:
    for m, k, n in ((5, 3, 4), (1, 1, 1), (70, 130, 65), (200, 33, 17)):
        x = torch.randn(m, k, device=device) * torch.exp2(-8 * torch.rand(k, device=device))
        w = quantize_tensor(torch.randn(k, n, device=device), 8)
        for bits, groups in ((4, 4), (8, 8), (2, 1), (6, 16)):
            for axis in (0, 1):
                for rounding in ("nearest", "stochastic"):
                    both = [
                        quantize_shift(
                            *(x.T if axis == 0 else x, bits, groups, axis, rounding),
                            generator=torch.Generator().manual_seed(3),
                            backend=backend,
                        )
                        for backend in ("torch", "triton")
                    ]
                    for name in ("q", "scale", "shift"):
                        assert torch.equal(*(getattr(each, name) for each in both)), (m, k, name)
            exact = shift_matmul(both[0], w, backend="torch")
            assert torch.equal(exact, shift_matmul(both[0], w, backend="triton"))
    spoiled = torch.tensor([[1.0, float("inf")], [float("nan"), 2.0]], device=device)
    for backend in ("torch", "triton"):
        scale = quantize_shift(spoiled, nonfinite="skip_step", backend=backend).scale
        assert bool(scale.isnan())
        few = quantize_shift(torch.zeros(2, 3, device=device), backend=backend)
        assert float(few.scale) == 1.0 and not few.q.any()


def _evonorm(*given: Tensor, running: Tensor, about: dict[str, Any], backend: Any) -> Tensor:
    return evonorm(*given, running.to(given[0].dtype), backend=backend, **about)


def evonorms(device: str) -> None:
    running = torch.rand(6, device=device) + 0.5
    for variant in ("S0", "B0"):
        for shape in ((2, 6, 5, 3), (3, 6, 1, 1), (2, 6, 4100), (1, 6, 2)):
            if variant == "B0" and shape == (3, 6, 1, 1):
                shape = (3, 6, 1, 2)
            for training in (True, False):
                about = {"variant": variant, "groups": 3, "training": training}
                layer = partial(_evonorm, running=running, about=about)
                x = torch.randn(shape, device=device) + 3
                weight, bias, v = torch.randn(3, 6, device=device)
                compare(layer, [x, weight, bias, v], 2e-5)
    batches = [EvoNorm(6, "B0", backend=each).to(device) for each in ("torch", "triton")]
    x = torch.randn(3, 6, 7, device=device) + 3
    for layer in batches:
        layer(x)
    torch.testing.assert_close(*(each.running_var for each in batches), rtol=1e-5, atol=1e-6)


FILTERS: tuple[dict[str, Any], ...] = (
    {},
    {"outlier_filtration": True},
    {"outlier_filtration": True, "threshold": "channel", "update_on_outlier": True},
)


def unified(device: str) -> None:
    """Six steps, of which the fifth is an outlier, each from the statistics before it."""
    noise = torch.Generator().manual_seed(0)
    for (n, c), about, masked in itertools.product(
        ((5, 3), (1, 1), (130, 70), (40, 64)), FILTERS, (True, False)
    ):
        norm = UnifiedNorm(c, 3, warmup_iters=2, rescale_after=2, device=device, **about)
        mask = torch.arange(n, device=device) % 3 == 1
        for number in range(6):
            results = []

            def step(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
                own = copy.deepcopy(norm).to(x.dtype)  # noqa: B023
                own.backend = backend
                parameters = {"weight": weight, "bias": bias}
                given = (x, mask) if masked else (x,)  # noqa: B023
                out: Tensor = torch.func.functional_call(own, parameters, given)
                results.append(own)  # noqa: B023
                return out

            x = torch.randn(n, c, generator=noise).to(device) * (30 if number == 4 else 1)
            weight, bias = torch.rand(2, c, generator=noise).to(device)
            compare(step, [x, weight, bias], 1e-5)
            exact, fast = results
            for name in ("running_var", "grad_ema", "buffer_x2", "buffer_gz"):
                one, other = (getattr(own, name).double() for own in (exact, fast))
                torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
            for name in ("iters", "skip_counter", "grad_tickets"):
                assert torch.equal(getattr(exact, name), getattr(fast, name)), name
            norm = fast
        if n > 100:
            assert (int(norm.skip_counter) > 0) == bool(about), "an outlier is skipped"
    broken = UnifiedNorm(4, device=device, backend="triton")
    broken(torch.full((3, 4), torch.nan, device=device))
    assert int(broken.iters) == 0 and int(broken.skip_counter) == 1
    assert bool(broken.buffer_x2.isfinite().all()) and bool((broken.running_var == 1).all())


PARTS = {
    "nala": nala,
    "soft": soft,
    "evonorm": evonorms,
    "unified": unified,
    "l1": l1,
    "shiftquant": shiftquant,
}

if __name__ == "__main__":
    torch.manual_seed(0)
    PARTS[sys.argv[1]](sys.argv[2])
    print("compared")
