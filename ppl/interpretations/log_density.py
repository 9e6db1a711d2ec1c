"""The log density of a program in unconstrained coordinates, as a function of one vector."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import Any

import pyro
import torch
from torch import Tensor

from ..distributions.data import as_arguments, as_data
from ..distributions.validate import no_validation
from ..errors import (
    DataError,
    NoDensityError,
    SmoothnessError,
    SupportError,
    UnsupportedDistributionError,
    implemented,
    located,
)
from ..language.handlers import Sealed
from ..language.program import Callback, program_name
from ..tensors.abstract_tensor import dependence
from ..tensors.capture import Fillable, Unread, is_tracing, refusing
from ..tensors.decompositions import IN_LANES, Decomposing
from ..types import Site
from .abstract_run import abstract_run
from .layout import Layout, Values
from .looping import Looping
from .recorder import Recorder


class LogDensity:
    """The joint log density of a program in unconstrained coordinates.

    ``layout`` maps vectors [d] to the continuous latents; discrete latents, if any, are fixed by
    ``discrete``.  Calling it with one vector [d] gives a scalar, Jacobian included.

    Parameters (``pyro.param``) are those of Pyro's store when the density is made, or their initial
    values; the store is left as it was.  They are no coordinates; a captured graph keeps their
    values and those of modules as they are then.

    A plate that draws a subsample has a random density, and is refused.  With its indices given
    (``subsample=``) the density is that of this minibatch, scaled up as Pyro does; with all of them
    (no ``subsample_size``) it is exact.

    With ``turning`` the coordinates of angles have no cut: see ``PlaneToCircle``.

    The density is zero where it needs a Cholesky factor, an inverse or a spectrum of a matrix that
    has none.

    Errors:
        NoDensityError: the program draws anonymously, or a plate draws its subsample.
        UnsupportedDistributionError: a latent is discrete and not fixed by ``discrete``, or its
            support depends on another.
        DataError: ``discrete`` names no latent site, or gives a value that does not fit.
    """

    def __init__(
        self,
        p: Callback,
        *args: Any,
        discrete: dict[str, Tensor] | None = None,
        turning: bool = False,
        **kwargs: Any,
    ) -> None:
        args = as_arguments(args)
        run, _ = abstract_run(p, *args, **kwargs)
        if run.draws:
            raise NoDensityError(
                located(
                    f"{program_name(p)} draws anonymously and has no exact density",
                    line=run.draw_line,
                    hint="name the choices with sample(...)",
                )
            )
        for name, (what, line) in run.subsampled.items():
            raise NoDensityError(
                located(
                    f"the plate draws {what}, so the density is random",
                    site=name,
                    line=line,
                    hint="give the indices as subsample=..., or use all the data",
                )
            )
        self.program, self.args, self.kwargs = p, args, kwargs
        self.parameters, self.writes = run.parameters, run.writes
        self.jumps = {name: (mark, run.lines[name]) for name, mark in run.jumps.items()}
        self.discrete = {name: as_data(name, value) for name, value in (discrete or {}).items()}
        self.sites, self.scaled = run.sites, run.scaled
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        unknown = self.discrete.keys() - latents.keys()
        if unknown:
            raise DataError(
                located(
                    f"discrete: no latent site called {sorted(unknown)}",
                    hint=f"the latent sites are {sorted(latents)}",
                )
            )
        for name, value in self.discrete.items():
            _require_inside(name, latents[name], value)
        continuous = {name: site for name, site in latents.items() if name not in self.discrete}
        for name, site in continuous.items():
            if not site.space.smooth or name in run.points:
                raise UnsupportedDistributionError(
                    located(
                        f"the latent is discrete ({site.space}) and has no gradient",
                        site=name,
                        line=site.line,
                        hint="sum it out, by marginal(p, exact=True) or MCMC(rewrite='auto'), draw"
                        " it by MCMC(with_gibbs()), or condition the program on its value",
                    )
                )
            moving = dependence(list(vars(site.space.constraint).values()))
            if moving:
                raise UnsupportedDistributionError(
                    located(
                        f"the support of the site depends on the choices {sorted(moving)}",
                        site=name,
                        line=site.line,
                        hint="write it as an affine function of a site with a fixed support",
                    )
                )
        self.layout = Layout(
            {n: (s.space.constraint, s.space.shape, run.dtypes[n]) for n, s in continuous.items()},
            [name for name, site in continuous.items() if turning and site.space.kind == "Circle"],
        )

    @property
    def size(self) -> int:
        """d, the number of unconstrained coordinates."""
        return self.layout.size

    def require_smooth(self, method: str) -> None:
        """Raise if the density jumps as a latent moves, which no gradient along draws can see.

        Errors:
            SmoothnessError: a random value is compared, rounded or cast on its way to a site.
        """
        for name, (mark, line) in self.jumps.items():
            raise SmoothnessError(
                located(
                    f"the density jumps as '{mark.choice}' moves ({mark.jump})",
                    site=name,
                    line=line,
                    hint=f"{method} would be biased: write a smooth step, such as a sigmoid, or use"
                    " NUTS, HMC or SMC; if it is continuous, write it by abs, clamp or maximum",
                )
            )

    def __call__(self, u: Tensor) -> Tensor:
        values, log_det = self.layout.values(u)
        recorder = self._run(values)
        return _or_zero(torch.as_tensor(recorder.log_density), recorder) + log_det

    def _run(self, values: Values) -> Recorder:
        return self._run_for_value(values)[0]

    def _run_for_value(self, values: Values) -> tuple[Recorder, Any]:
        recording = Recorder(values.beside(self.discrete), density=True, validate=False)
        parameters: Any = {kind: dict(entries) for kind, entries in self.parameters.items()}
        with ExitStack() as within:
            within.enter_context(refusing())
            if is_tracing():
                within.enter_context(Unread())
            within.enter_context(implemented())
            within.enter_context(no_validation())
            within.enter_context(pyro.get_param_store().scope(parameters))
            if self.writes and values:
                within.enter_context(Fillable(next(iter(values.values()))))
            within.enter_context(Sealed())
            decomposing = within.enter_context(Decomposing())
            recorder = within.enter_context(recording)
            within.enter_context(Looping(recorder))
            value = self.program(*self.args, **self.kwargs)
        recorder.decomposes = bool(decomposing.met)
        return recorder, value

    def outcome(self, u: Tensor, of: str) -> Any:
        """The result of the program at ``u`` (``of="value"``), or its latents (``"trace"``)."""
        values, _ = self.layout.values(u)
        return dict(values) if of == "trace" else self._run_for_value(values)[1]

    def results(self, u: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        """Latents, deterministic sites, and log densities of data one by one, at one vector [d]."""
        values, _ = self.layout.values(u)
        recorder = self._run(values)
        return dict(values), recorder.of("derived"), recorder.pointwise

    def record(self, u: Tensor) -> Recorder:
        """One run of the program at ``u`` [d]: its sites, their values and dimensions."""
        return self._run(self.layout.values(u)[0])

    def prior_and_likelihood(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """The log density of the latents (Jacobian included) and that of the data, at [d]."""
        values, log_det = self.layout.values(u)
        recorder = self._run(values)
        prior = torch.as_tensor(recorder.log_latents)
        likelihood = torch.as_tensor(recorder.log_density) - prior
        return _or_zero(prior, recorder) + log_det, _or_zero(likelihood, recorder)

    def blame(self, u: Tensor) -> str:
        """Which sites have a log density that is NaN or infinite at ``u``."""
        values, _ = self.layout.values(u)
        log_probs = self._run(values).log_probs
        bad = [
            f"{name!r} ({self.sites[name].line})" if name in self.sites else repr(name)
            for name, log_prob in log_probs.items()
            if not bool(torch.isfinite(log_prob).all())
        ]
        return f"not finite at {', '.join(bad)}" if bad else "no single site is at fault"

    def tempered(self, u: Tensor, beta: Tensor) -> Tensor:
        """log prior + beta log likelihood, at one vector [d]."""
        prior, likelihood = self.prior_and_likelihood(u)
        return prior + beta * likelihood


def _or_zero(log_density: Tensor, recorder: Recorder) -> Tensor:
    """The log density, -inf where it is NaN in a run that decomposes matrices."""
    if not recorder.decomposes:
        return log_density
    failed = log_density.isnan()
    IN_LANES.tell(failed)
    return log_density.masked_fill(failed, -math.inf)


def _require_inside(name: str, site: Site, value: Tensor) -> None:
    """Raise unless a fixed value has the shape of its site and lies in its space."""
    if tuple(value.shape) != site.space.shape:
        what = f"discrete: a value of shape {list(value.shape)} where {site.space} is sampled"
        hint = f"give one of shape {list(site.space.shape)}"
        raise DataError(located(what, site=name, line=site.line, hint=hint))
    try:
        inside = torch.as_tensor(site.space.contains(value))
    except UnsupportedDistributionError:  # the space depends on another choice
        return
    if not bool(inside.all()):
        what = f"discrete: {value.tolist()} lies outside {site.space}"
        hint = f"give values in {site.space.name}"
        raise SupportError(located(what, site=name, line=site.line, hint=hint))
