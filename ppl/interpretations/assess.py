"""Assess: a program as a density of its choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..distributions.data import as_arguments, as_data, one_precision
from ..errors import DataError, checked, implemented, located
from ..language.handlers import Sealed
from .abstract_run import require_known, unless_impossible
from .recorder import Recorder


def assess(p: Callable[..., Any], choices: dict[str, Any], *args: Any) -> tuple[Tensor, Any]:
    """The log density of a program at ``choices`` (all of its latents), and its result there.

    Errors:
        DataError: a latent is missing, or a choice names no site.
        NoDensityError: the program draws anonymously.
    """
    args, choices = as_arguments(args), {name: as_data(name, x) for name, x in choices.items()}

    def run() -> tuple[Recorder, Any]:
        recording = Recorder(choices, density=True)
        with one_precision(args), checked(), implemented(), Sealed(), recording as recorder:
            return recorder, p(*args)

    recorder, value = unless_impossible(p, args, run)
    require_known(p, args, recorder.coverage)
    latents = recorder.of("latent")
    missing, unused = latents.keys() - choices.keys(), choices.keys() - latents.keys()
    if missing or unused:
        problem = (
            f"no value for {sorted(missing)}" if missing else f"no site called {sorted(unused)}"
        )
        raise DataError(
            located(f"assess: {problem}", hint=f"the latent sites are {sorted(latents)}")
        )
    return torch.as_tensor(recorder.log_density), value
