"""Sites x = loc + scale z in place of x with a random location or scale, where that helps.

Papaspiliopoulos, Roberts and Sköld, "A general framework for the parametrization of hierarchical
models" (2007).  Which form is easier to sample is told by draws of one: in coordinates u with log
density l, sd(u_i) sd(dl / du_i) is 1 for each coordinate of an independent normal law, and more
the farther the law is from one.  The form with the smaller sum of logs is chosen; it is the one
that the diagonal metric of least Fisher divergence fits better (Seyboldt, Carlson and Carpenter
2024).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer.reparam import LocScaleReparam
from pyro.infer.reparam.reparam import Reparam
from pyro.poutine.messenger import Messenger
from pyro.poutine.reparam_messenger import ReparamMessenger
from torch import Tensor

from ...ppl.compile.potential import Potential, by_columns
from ...ppl.distributions.masks import core
from ...ppl.distributions.validate import no_validation
from ...ppl.interpretations.abstract_run import abstract_run
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.effects import Message, is_latent
from ...ppl.language.handlers import Sealed, is_one
from ...ppl.language.program import Callback, derived, program_name
from ..mcmc.lanes.engine import Engine
from ..mcmc.lanes.sampling import sample_lanes
from ..runs.start import starting_points

LAWS = (dist.Normal, dist.Laplace, dist.StudentT, dist.Cauchy)
SUFFIX = "_decentered"  # of the sites that Pyro's reparameterisation makes
CHAINS, WARMUP, DRAWS = 4, 300, 100  # of the run that tells
GAIN = 0.5  # the sum of logs must fall by so much

Values = dict[str, Tensor]


def decentred(
    p: Callback, args: tuple[Any, ...], names: Sequence[str]
) -> tuple[Callback, Callable[[Values], Values]]:
    """p with these sites as ``loc + scale z``, and its own latents from those of a run of that."""
    run, _ = abstract_run(p, *args)
    latents = [name for name, site in run.sites.items() if not site.observed]
    q = _decentred(p, names)

    def restored(values: Values) -> Values:
        with no_validation(), Sealed(), Recorder(values, density=True, validate=False) as recorder:
            q(*args)
        return {name: recorder.values[name] for name in latents if name in recorder.values}

    return q, restored


def _decentred(p: Callback, names: Sequence[str]) -> Callback:
    config: dict[str, Reparam] = {name: LocScaleReparam(0.0) for name in names}

    def run(*args: Any) -> Any:
        with ReparamMessenger(config):
            return p(*args)

    return derived(run, f"decentred({program_name(p)}, {list(names)})")


def chosen_centring(p: Callback, args: tuple[Any, ...]) -> list[str]:
    """The sites that had better be ``loc + scale z``; none where NUTS is not compiled."""
    candidates = with_random_parameters(p, args)
    if not candidates:
        return []
    density = LogDensity(p, *args, turning=True)
    u0 = by_columns(starting_points(density, CHAINS))
    potential = Potential(density, u0)
    if potential.lanes is None:
        return []
    run = sample_lanes(Engine(potential.lanes), potential, u0, WARMUP, DRAWS)
    u = run.draws.flatten(0, 1)
    as_it_is = _difficulty(density, u)
    standard = _standard_values(p, args, density, candidates)
    chosen = []
    for names in families(candidates):
        other = LogDensity(_decentred(p, names), *args, turning=True)

        def moved(row: Tensor, names: list[str] = names, other: LogDensity = other) -> Tensor:
            values, z = standard(row)
            kept = {name: x for name, x in values.items() if name not in names}
            new = (b.name for b in other.layout.blocks if b.name not in values)
            own = {site: z[name] for site, name in zip(new, names, strict=True)}
            return other.layout.pack({**kept, **own})

        if _difficulty(other, torch.func.vmap(moved)(u)) < as_it_is - GAIN:
            chosen += names
    return chosen


def _difficulty(density: LogDensity, u: Tensor) -> float:
    """The sum over coordinates of log(sd(u_i) sd(dl / du_i)), over rows u [n, d]."""
    with torch.no_grad():
        gradient = torch.func.vmap(torch.func.grad(density))(u)
    usable = gradient.isfinite().all(-1)
    return float((u[usable].std(0).log() + gradient[usable].std(0).log()).sum())


class _Laws(Messenger):  # type: ignore[misc]
    """Notes the laws of latents, without their batch and event dimensions.

    A power of a density, as a scale gives, is none of the law of ``loc + scale z``.
    """

    def __enter__(self) -> Any:
        self.met: dict[str, Any] = {}
        return super().__enter__()

    def _postprocess_message(self, msg: Message) -> None:
        if is_latent(msg) and is_one(msg["scale"]) and msg["mask"] is None:
            law = core(msg["fn"])
            while isinstance(law, dist.Independent):
                law = core(law.base_dist)
            self.met[msg["name"]] = law


def with_random_parameters(p: Callback, args: tuple[Any, ...]) -> list[str]:
    """The latents of location and scale whose parameters depend on other latents."""
    run, _ = abstract_run(p, *args)
    latents = [name for name, site in run.sites.items() if not site.observed]
    layout = LogDensity(p, *args, turning=True).layout
    laws = _laws(p, args, dict(layout.values(torch.zeros(layout.size, dtype=layout.dtype))[0]))
    free = [n for n in latents if n + SUFFIX not in run.sites]
    return [n for n in free if run.parents[n] - {n} and type(laws.get(n)) in LAWS]


def _laws(p: Callback, args: tuple[Any, ...], values: Values) -> dict[str, Any]:
    """Of the latents of one run, where they have these values."""
    recorder = Recorder(values, density=True, validate=False)
    with no_validation(), Sealed(), _Laws() as laws, recorder:
        p(*args)
    met: dict[str, Any] = laws.met
    return met


def families(names: list[str]) -> list[list[str]]:
    """Sites that are decided on together: the steps of a loop."""
    families: dict[str, list[str]] = {}
    for name in names:
        families.setdefault(name.partition("[")[0], []).append(name)
    return list(families.values())


def _standard_values(
    p: Callback, args: tuple[Any, ...], density: LogDensity, names: list[str]
) -> Callable[[Tensor], tuple[Values, Values]]:
    """Of a vector [d]: the values of all latents, and (x - loc) / scale of those named."""

    def standard(u: Tensor) -> tuple[Values, Values]:
        values = dict(density.layout.values(u)[0])
        laws = _laws(p, args, values)
        z = {name: (values[name] - laws[name].loc) / laws[name].scale for name in names}
        return values, z

    return standard
