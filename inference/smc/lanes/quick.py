"""A particle filter, or an algorithm on its particles, in lane code, for arguments of one kind."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from subprocess import CalledProcessError
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from ....ppl.compile.cache import compiler
from ....ppl.compile.inductor import Notify
from ....ppl.compile.lanes.translation import Unsupported
from ....ppl.errors import PushforwardError
from ....ppl.tensors.noise import UnknownDraw
from ..filtering import Filtering, ancestry
from ..population import Population
from .engine import SCHEMES, Engine
from .particle import Particle

Quick = Callable[..., Population]


class Kind(NamedTuple):
    """What is made for a filter: functions of a particle, an engine of them, and its result.

    ``result(engine, key, *args)`` is the population.
    """

    particle: Callable[[Any, tuple[Any, ...]], Any]
    engine: Callable[[Any], Any]
    result: Callable[..., Population]


def quick(
    filtering: Filtering,
    args: tuple[Any, ...],
    notify: Notify | None,
    followed: bool = False,
    kind: Kind | None = None,
) -> Quick | None:
    """The filter as machine code, for arguments like these; None where it is no lane code.

    It is called with a key for its noise, two whole numbers, and the arguments.

    Args:
        notify: is told why there is none.
        followed: whether gradients of what the program closes over would be; lane code has none.
        kind: of algorithm; by default, a filter.
    """
    say = notify or (lambda message: None)
    if not any(filtering.scheme is each for each in SCHEMES) or compiler() is None:
        return None
    kind = kind or Kind(Particle, Engine, population)
    try:
        filtering.check(*args)
        if followed and _has_gradients(filtering, args):
            say("filtering without lane code, which has no gradients")
            return None
        particle = kind.particle(filtering, args)
        if wrong := particle.disagreeing(particle.rest(args)):
            say(f"filtering without lane code, whose {wrong} is not the program's")
            return None
        engine = kind.engine(particle)
    except (Unsupported, UnknownDraw) as error:
        say(f"filtering without lane code, which does not know {error}")
        return None
    except PushforwardError as error:  # whatever one particle alone meets, the program decides
        say(f"filtering without lane code: {error}")
        return None
    except (CalledProcessError, OSError) as error:
        say(f"filtering without lane code: {getattr(error, 'stderr', None) or error}")
        return None

    return partial(kind.result, engine)


def _has_gradients(filtering: Filtering, args: tuple[Any, ...]) -> bool:
    """Whether a particle depends on parameters of which gradients are wanted."""
    with torch.enable_grad():
        particle, steps, log_weight = filtering._start(*args)
        after = filtering._advance(particle, 0, *args) if steps else ()
    leaves = tree_leaves((particle, log_weight, after))
    return any(isinstance(x, Tensor) and x.requires_grad for x in leaves)


def population(engine: Engine, key: Tensor, *args: Any, given: Tensor | None = None) -> Population:
    """Run the filter by the noise of a key, or by choices that are given: see ``Engine``."""
    particle = engine.particle
    rest = particle.rest(args)
    found = engine(rest, key, given)
    outputs = None
    if particle.output is not None and found.history is not None and found.ancestors is not None:
        steps, _, n = found.history.shape
        rows = particle.output.tree(found.history.movedim(1, 0).reshape(-1, steps * n))
        by_step = tree_map(lambda x: None if x is None else x.reshape(steps, n, *x.shape[1:]), rows)
        outputs = ancestry(by_step, found.ancestors)
    weights = found.log_weights.to(particle.dtype)
    return particle.ended(found.state, weights, outputs, rest, args).require_weights()
