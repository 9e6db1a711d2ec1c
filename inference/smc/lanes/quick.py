"""A particle filter in lane code, for arguments of one kind."""

from __future__ import annotations

from collections.abc import Callable
from subprocess import CalledProcessError
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ....ppl.compile.agreement import agrees
from ....ppl.compile.cache import compiler
from ....ppl.compile.inductor import Notify
from ....ppl.compile.lanes.translation import Unsupported
from ....ppl.errors import PushforwardError
from ....ppl.tensors.noise import UnknownDraw
from ..filtering import Filtering, ancestry
from ..population import Population
from .code import Code
from .engine import SCHEMES, Engine
from .particle import Particle

Quick = Callable[..., Population]


def quick(filtering: Filtering, args: tuple[Any, ...], notify: Notify | None) -> Quick | None:
    """The filter as machine code, for arguments like these; None where it is no lane code.

    It draws from a stream of its own, of which torch's generator chooses the key.

    Args:
        notify: is told why there is none.
    """
    say = notify or (lambda message: None)
    if filtering.scheme not in SCHEMES or compiler() is None:
        return None
    try:
        particle = Particle(filtering, args)
        if wrong := _disagreeing(particle, args):
            say(f"filtering without lane code, whose {wrong} is not the program's")
            return None
        engine = Engine(particle)
    except (Unsupported, UnknownDraw) as error:
        say(f"filtering without lane code, which does not know {error}")
        return None
    except PushforwardError as error:  # whatever one particle alone meets, the program decides
        say(f"filtering without lane code: {error}")
        return None
    except (CalledProcessError, OSError) as error:
        say(f"filtering without lane code: {getattr(error, 'stderr', None) or error}")
        return None

    def run(*args: Any) -> Population:
        return population(engine, args)

    return run


def population(engine: Engine, args: tuple[Any, ...], given: Tensor | None = None) -> Population:
    """Run the filter, with the choices of ``Engine`` in place of its own if they are given."""
    particle = engine.particle
    rest = particle.rest(args)
    found = engine(rest, torch.randint(2**62, (2,)), given)
    weights = found.log_weights.to(particle.dtype)
    if particle.value is not None:
        return particle.ended(found.state, weights, rest).require_weights()
    assert particle.output is not None and found.history is not None and found.ancestors is not None
    steps, _, n = found.history.shape
    rows = particle.output.tree(found.history.movedim(1, 0).reshape(-1, steps * n))
    outputs = tree_map(lambda x: None if x is None else x.reshape(steps, n, *x.shape[1:]), rows)
    states = Population(particle.tree(found.state), weights)
    filtered = particle.filtering.end(states, ancestry(outputs, found.ancestors), *args)
    return filtered.require_weights()


def _disagreeing(particle: Particle, args: tuple[Any, ...]) -> str:
    """What of the code is not what the program does, for one choice of noise; or nothing."""
    rest, start, step = particle.rest(args), particle.start, particle.step
    if not agrees(start.function, start.graph, _noise(start, particle.dtype), *rest):
        return "start"
    begun = start.graph(_noise(start, particle.dtype)[0], *rest)[0]
    both = torch.cat([begun, _noise(step, particle.dtype)[0]])[None]
    for t, graph in ((0, particle.first), (particle.steps - 1, step.graph)):
        if not agrees(step.function, graph, both, torch.tensor(t), *rest):
            return f"step {t}"
    return ""


def _noise(code: Code, dtype: torch.dtype) -> Tensor:
    """Some noise [1, n] of a function."""
    n, normal = max(len(code.normal), 1), torch.tensor(code.normal or [False])
    return torch.where(normal, torch.randn(n, dtype=dtype), torch.rand(n, dtype=dtype))[None]
