"""Modules of torch with random parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from pyro import distributions as dist
from torch import Tensor

from ..errors import ProgramError, located
from .effects import sample
from .program import Program, derived

Prior = Callable[[str, Tensor], Any]


def normal_prior(scale: float = 1.0) -> Prior:
    """Independent normals of mean zero for every number of every parameter."""

    def prior(name: str, parameter: Tensor) -> Any:
        zeros = torch.zeros_like(parameter)
        return dist.Normal(zeros, torch.full_like(parameter, scale)).to_event(parameter.ndim)

    return prior


def random_module(module: torch.nn.Module, prior: Prior | None = None) -> Program:
    """The program that samples the parameters of a module, and applies it to its arguments.

    Each parameter is a latent under its name ("0.weight"); its values in the module do not count.
    Buffers stay as they are.

    Args:
        prior: from the name and the parameter to a distribution of its shape, or to None for one
            that is not random; standard normals unless given.

    Errors:
        ProgramError: no parameter is random; a prior has another shape than its parameter; or the
            program is called in a plate.
    """
    prior = prior or normal_prior()

    def run(*args: Any, **kwargs: Any) -> Any:
        weights = {}
        for name, parameter in module.named_parameters():
            law = prior(name, parameter.detach())
            if law is None:
                continue
            shape = law.batch_shape + law.event_shape
            if shape != parameter.shape:
                what = f"the prior has shape {list(shape)}, the parameter {list(parameter.shape)}"
                raise ProgramError(located(what, site=name, hint="expand the prior"))
            weights[name] = sample(name, law)
            if weights[name].shape != parameter.shape:
                what = "the module is called in a plate, which repeats its parameters"
                raise ProgramError(located(what, site=name, hint="call it before the plate"))
        if not weights:
            what = f"no parameter of {type(module).__name__} is random"
            raise ProgramError(located(what, hint="give a prior for one"))
        return torch.func.functional_call(module, weights, args, kwargs)

    return derived(run, f"random_module({type(module).__name__})")
