"""On a GPU: Triton kernels, checked against float64, and a particle filter, beside usual peers.

``python benchmarks/gpu.py TABLE.md`` writes a table with the date and the device.  Times are
medians of CUDA events, variants in alternation; memory is the peak above the inputs.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from particle_filter import SCHEMES, by_hand, linear_gaussian
from torch import Tensor, nn
from torch.nn import functional as F

from pushforward.inference import particle_filter
from pushforward.nn.attention import nala_attention, soft_attention
from pushforward.nn.normalisation import EvoNorm, UnifiedNorm, l1_layer_norm
from pushforward.nn.quantisation import quantize_shift, quantize_tensor, shift_matmul
from pushforward.ppl import compiled

TWINS = Path(__file__).resolve().parents[1] / "tests" / "support" / "triton_twins.py"
PARTS = ("nala", "soft", "evonorm", "unified", "l1", "shiftquant")
HALF = torch.bfloat16
Run = Callable[..., Any]


def checks() -> list[str]:
    """Compare the kernels of every part with float64, in a process of its own."""
    failed = []
    for part in PARTS:
        command = [sys.executable, str(TWINS), part, "cuda"]
        done = subprocess.run(command, capture_output=True, text=True)
        print(part, "agrees" if done.returncode == 0 else done.stderr[-2000:], flush=True)
        if done.returncode:
            failed.append(part)
    return failed


def randn(*shape: int, dtype: torch.dtype = HALF) -> Tensor:
    return torch.randn(*shape, device="cuda", dtype=dtype)


def with_backend(function: Run, backend: str, **settings: Any) -> Run:
    return lambda *inputs: function(*inputs, backend=backend, **settings)


def three(function: Run, **settings: Any) -> dict[str, Run]:
    """Triton, the torch twin, and the twin compiled."""
    twin = with_backend(function, "torch", **settings)
    return {
        "triton": with_backend(function, "triton", **settings),
        "torch": twin,
        "compiled": torch.compile(twin),
    }


def layers(make: Callable[[str], nn.Module]) -> dict[str, Run]:
    twin = make("torch").cuda()
    return {"triton": make("triton").cuda(), "torch": twin, "compiled": torch.compile(twin)}


def softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v)


def causal_softmax(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def filters(particles: int, steps: int) -> dict[str, Run]:
    """A particle filter of a linear-Gaussian model: compiled, as it is, and written by hand."""
    ys = torch.sin(torch.arange(steps, device="cuda") / 3)
    filtering = particle_filter(linear_gaussian, particles, SCHEMES["systematic"])

    def there(run: Run) -> Run:
        def call() -> Any:
            with torch.device("cuda"), torch.no_grad():
                return run(ys)

        return call

    return {
        "compiled": there(compiled(filtering)),
        "program": there(filtering),
        "by hand": there(lambda ys: by_hand(ys, particles, "systematic")),
    }


def cases() -> dict[str, tuple[dict[str, Run], list[Tensor], bool]]:
    """By name: variants, inputs, and whether a backward pass is timed too."""
    heads = [randn(4, 8, 8192, 64) for _ in range(3)]
    marks = 2 * randn(4, 8, 64, 64)
    images, tokens = randn(64, 256, 56, 56), randn(64, 512, 768)
    group_norm = nn.Sequential(nn.GroupNorm(32, 256), nn.SiLU()).cuda().to(HALF)
    batch_norm = nn.Sequential(nn.BatchNorm2d(256), nn.ReLU()).cuda().to(HALF)
    layer_norm = nn.LayerNorm(768).cuda().to(HALF)
    wide = randn(8192, 4096, dtype=torch.float32)
    weight = quantize_tensor(randn(4096, 4096, dtype=torch.float32), 8)
    few = quantize_shift(wide, 4, 4)
    a, b = wide.to(HALF), randn(4096, 4096)
    return {
        "NaLa": (three(nala_attention) | {"SDPA": softmax}, heads, True),
        "NaLa, causal": (
            three(nala_attention, is_causal=True) | {"SDPA": causal_softmax},
            heads,
            True,
        ),
        "SOFT": (
            three(lambda q, v, m, **s: soft_attention(q, v, m, ridge=0.1, **s)),
            [heads[0], heads[1], marks],
            True,
        ),
        "EvoNorm-S0": (
            layers(lambda backend: EvoNorm(256, "S0", backend=backend))  # type: ignore[arg-type]
            | {"GroupNorm, SiLU": group_norm},
            [images],
            True,
        ),
        "EvoNorm-B0": (
            layers(lambda backend: EvoNorm(256, "B0", backend=backend))  # type: ignore[arg-type]
            | {"BatchNorm, ReLU": batch_norm},
            [images],
            True,
        ),
        "UnifiedNorm": (
            layers(lambda backend: UnifiedNorm(768, backend=backend))  # type: ignore[arg-type]
            | {"LayerNorm": layer_norm},
            [tokens],
            True,
        ),
        "L1 norm": (
            three(lambda x, **s: l1_layer_norm(x, (768,), **s)) | {"LayerNorm": layer_norm},
            [tokens],
            True,
        ),
        "quantise": (three(lambda x, **s: quantize_shift(x, 4, 4, **s).q), [wide], False),
        "particle filter, 10^6": (filters(10**6, 50), [], False),
        "integer product": (
            {
                "triton": lambda: shift_matmul(few, weight, backend="triton"),
                "torch": lambda: shift_matmul(few, weight, backend="torch"),
                "bf16 product": lambda: a @ b,
            },
            [],
            False,
        ),
    }


def once(run: Run, inputs: list[Tensor], backward: bool) -> tuple[float, float]:
    """Milliseconds, and MB above the inputs."""
    own = [x.clone().requires_grad_(backward) for x in inputs]
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    out = run(*own)
    if backward:
        out.sum().backward()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end), (torch.cuda.max_memory_allocated() - before) / 1e6


def table(rounds: int) -> list[str]:
    """Rows of Markdown."""
    rows = [
        "| what | variant | ms | ms of the first relative to it | MB |",
        "|---|---|---|---|---|",
    ]
    for name, (variants, inputs, backward) in cases().items():
        times: dict[str, list[float]] = {each: [] for each in variants}
        memory = dict.fromkeys(variants, 0.0)
        failed: dict[str, str] = {}
        first = next(iter(variants))
        for turn in range(rounds + 5):
            for each, run in variants.items():
                if each in failed:
                    continue
                try:
                    ms, mb = once(run, inputs, backward)
                except Exception as error:  # one row says so, and the others are measured
                    failed[each] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
                    continue
                if turn >= 5:
                    times[each].append(ms)
                    memory[each] = mb
        for each, found in times.items():
            if each in failed or first in failed:
                rows.append(f"| {name} | {each} | {failed.get(each, '')} | | |")
                continue
            pairs = zip(times[first], found, strict=True)
            ratio = statistics.median(x / y for x, y in pairs)
            median = statistics.median(found)
            rows.append(f"| {name} | {each} | {median:.3f} | {ratio:.2f} | {memory[each]:.0f} |")
        print("\n".join(rows[-len(variants) :]), flush=True)
    return rows


def main() -> None:
    """Parse the command line, check, time, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="the Markdown file to write")
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here")
    failed = checks()
    title = f"{datetime.date.today()}, {torch.cuda.get_device_name()}, torch {torch.__version__}"
    lines = [title, "", *table(options.rounds), ""]
    if failed:
        lines.append(f"Wrong against float64: {', '.join(failed)}.")
    options.out.write_text("\n".join(lines))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
