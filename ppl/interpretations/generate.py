"""Generate: a program as a sampler some of whose choices are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..distributions.data import as_arguments, one_precision
from ..errors import DataError, checked, implemented, located
from ..tensors.seeds import seeded
from .abstract_run import require_known, unless_impossible
from .recorder import Recorder, Trace


def generate(
    p: Callable[..., Any], constraints: dict[str, Tensor], *args: Any, seed: int | None = None
) -> tuple[Trace, Tensor]:
    """Run a program with some latents given; the log weight scores those and the observations."""
    args = as_arguments(args)

    def run() -> tuple[Recorder, Any]:
        recording = Recorder(constraints, density=False)
        with one_precision(args), checked(), implemented(), recording as recorder:
            return recorder, p(*args)

    with seeded(seed), torch.no_grad():
        recorder, value = unless_impossible(p, args, run)
    require_known(p, args, recorder.coverage)
    unused = constraints.keys() - recorder.of("latent").keys()
    if unused:
        raise DataError(
            located(
                f"generate: no site called {sorted(unused)}",
                hint=f"the latent sites are {sorted(recorder.of('latent'))}",
            )
        )
    return recorder.trace(value), torch.as_tensor(recorder.log_weight)
