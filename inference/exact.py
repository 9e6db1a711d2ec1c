"""The driver of exact inference: finite latents by elimination, linear-Gaussian ones by algebra."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import pyro.distributions as dist
import torch
from torch import Tensor

from ..ppl import assess, draw
from ..ppl.distributions.validate import no_validation
from ..ppl.errors import BudgetError, InfiniteMassError, ProgramError, ZeroMassError, located
from ..ppl.interpretations.abstract_run import abstract_run
from ..ppl.interpretations.factors import FiniteLatents
from ..ppl.interpretations.log_density import LogDensity
from ..ppl.interpretations.quadratic import is_singular
from ..ppl.interpretations.recorder import Recorder
from ..ppl.language.handlers import Sealed
from ..ppl.language.program import Callback, program_name
from ..ppl.tensors.capture import refusing
from ..ppl.tensors.polynomials import NotQuadratic, require_quadratic
from ..ppl.tensors.seeds import seeded
from ..ppl.types import Site
from .results.fit import Fit, fit_from_vectors
from .results.predict import with_log_likelihood
from .runs.placing import run_settled

ASSIGNMENTS = 256
STEPS = 2  # to the mean


@dataclass(frozen=True)
class Exact:
    """The posterior, its evidence and independent draws from it, without approximation.

    Programs whose latents are all finite: by elimination, at a cost that grows with their length
    and with the tables of what depends on each other, not with the number of joint values.
    Programs whose latents are real, with a log density that is quadratic in them (normal laws,
    means that are affine in other latents): by Cholesky factors.  Both: for each joint value of the
    finite ones, of which there may be 256.

    Args:
        draws: independent, from the posterior.
        dtype: the precision of what the program makes, and of the data, as of ``MCMC``.
    """

    draws: int = 1000
    dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if self.draws < 1:
            raise ValueError("Exact needs at least one draw")

    def run(self, p: Callback, *args: Any, seed: int = 0) -> Fit:
        """The posterior of ``p(*args)``: draws, evidence, and ``marginals`` or ``moments``.

        Errors:
            ProgramError: a latent is neither finite nor real; the density is not quadratic in the
                real ones; or a site looks at several elements of a finite latent in a plate.
            BudgetError: too many finite latents depend on each other.
            ZeroMassError, InfiniteMassError: there is no posterior.
        """
        return run_settled(partial(self._run, seed=seed), p, args, dtype=self.dtype)

    def _run(self, p: Callback, args: tuple[Any, ...], seed: int) -> Fit:
        start = time.perf_counter()
        with Sealed():
            run, _ = abstract_run(p, *args)
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        finite = {name: site for name, site in latents.items() if site.space.finite}
        for name, site in latents.items():
            if name not in finite and site.space.kind != "Real":
                what = f"the latent is neither finite nor real ({site.space})"
                hint = "use NUTS, or marginal(p, exact=True) for the finite ones"
                raise ProgramError(located(what, site=name, line=site.line, hint=hint))
        with seeded(seed), torch.no_grad():
            if not latents:
                fit = Fit("Exact", {}, log_evidence=_possible(float(assess(p, {}, *args)[0])))
            elif len(finite) == len(latents):
                fit = self._eliminated(p, args)
            else:
                assignments = _assignments(p, finite, run.dtypes)
                fit = self._gaussian(p, args, assignments)
        return replace(fit, log_evidence_error=0.0, seed=seed, seconds=time.perf_counter() - start)

    def _eliminated(self, p: Callback, args: tuple[Any, ...]) -> Fit:
        solved = FiniteLatents(p, args).solved({})
        log_evidence = _possible(float(solved.log_mass))
        draws = solved.draw(self.draws)
        derived = torch.func.vmap(lambda choices: _derived(p, args, choices))(draws)
        fit = Fit(
            method="Exact (elimination)",
            draws={name: x[None] for name, x in {**draws, **derived}.items()},
            latents=tuple(draws),
            log_evidence=log_evidence,
            marginals=solved.probabilities(),
        )
        return with_log_likelihood(fit, p, args)

    def _gaussian(
        self, p: Callback, args: tuple[Any, ...], assignments: list[dict[str, Tensor]]
    ) -> Fit:
        """A mixture of normal laws, one for each joint value of the finite latents."""
        parts = [
            (values, gaussian(LogDensity(p, *args, discrete=values))) for values in assignments
        ]
        log_masses = torch.stack([each.log_mass for _, each in parts])
        log_evidence = _possible(float(torch.logsumexp(log_masses, 0)))
        which = draw(dist.Categorical(logits=log_masses), (self.draws,), label="posterior")
        order = which.sort().values  # draws are independent, in whatever order
        fits = []
        for k in order.unique().tolist():
            values, each = parts[k]
            density = LogDensity(p, *args, discrete=values)
            count = int((order == k).sum())
            noise = dist.Normal(torch.zeros_like(each.mean), 1.0)
            u = each.mean + draw(noise, (count,), label="posterior") @ each.root.mT
            fit = fit_from_vectors(density, u.to(density.layout.dtype)[None], method="")
            given = {name: x.expand(1, count, *x.shape) for name, x in values.items()}
            fits.append(replace(fit, draws={**fit.draws, **given}))
        uniform = dist.Uniform(torch.zeros(()), 1.0)
        shuffled = draw(uniform, (self.draws,), label="order").argsort()

        def joined(kind: str) -> dict[str, Tensor]:
            tables = [getattr(fit, kind) for fit in fits]
            return {n: torch.cat([t[n] for t in tables], 1)[:, shuffled] for n in tables[0]}

        layout = LogDensity(p, *args, discrete=parts[0][0]).layout
        weights = torch.softmax(log_masses, 0)
        means = torch.stack([each.mean for _, each in parts])
        mean = weights @ means
        spread = torch.stack([each.root.square().sum(-1) for _, each in parts])
        sd = (weights @ (spread + (means - mean) ** 2)).sqrt()
        moments = [layout.unpack(each.to(layout.dtype))[0] for each in (mean, sd)]
        return replace(
            fits[0],
            method="Exact (Gaussian)",
            draws=joined("draws"),
            log_likelihood=joined("log_likelihood"),
            latents=(*fits[0].latents, *assignments[0]),
            log_evidence=log_evidence,
            moments={name: torch.stack([m[name] for m in moments]) for name in moments[0]},
        )


class Gaussian(NamedTuple):
    """exp(log_mass) times a normal law with this mean [d] and covariance root root^T [d, d]."""

    log_mass: Tensor
    mean: Tensor
    root: Tensor


def gaussian(density: LogDensity) -> Gaussian:
    """The measure of a density that is quadratic in its coordinates.

    Errors:
        ProgramError: it is not quadratic.
        InfiniteMassError: its mass is infinite.
    """
    name, d = program_name(density.program), density.layout.size
    zero = torch.zeros(d, dtype=density.layout.dtype)
    try:
        require_quadratic(density, zero)
    except NotQuadratic as error:
        what = f"the log density of {name} is not quadratic in its real latents: {error}"
        hint = "means must be affine in them, and scales constant; or use NUTS"
        raise ProgramError(located(what, hint=hint)) from error
    slope = torch.func.grad(density)(zero).double()
    precision = -torch.func.jacrev(torch.func.grad(density))(zero).double()
    precision = (precision + precision.mT) / 2
    root_of_precision, _ = torch.linalg.cholesky_ex(precision)
    if bool(is_singular(root_of_precision, precision)):
        what = f"{name} has no finite mass: its density is constant or grows in some direction"
        raise InfiniteMassError(located(what, hint="give every real latent a normal law"))
    root = torch.linalg.solve_triangular(
        root_of_precision, torch.eye(d, dtype=torch.float64), upper=False
    ).mT
    mean, near = root @ (root.mT @ slope), zero
    for _ in range(STEPS):  # values far from the mean have few digits of what is told from them
        near = mean.to(zero.dtype)
        slope = torch.func.grad(density)(near).double()
        mean = near.double() + root @ (root.mT @ slope)
    value = density(near).double() + 0.5 * slope @ root @ (root.mT @ slope)
    log_det = -root_of_precision.diagonal().log().sum()
    return Gaussian(value + 0.5 * d * math.log(2 * math.pi) + log_det, mean, root)


def _assignments(
    p: Callback, finite: dict[str, Site], dtypes: dict[str, torch.dtype]
) -> list[dict[str, Tensor]]:
    """All joint values of the finite latents."""
    elements = {name: math.prod(site.space.batch_shape) for name, site in finite.items()}
    supports = {n: site.space.enumerate().to(dtypes[n]) for n, site in finite.items()}
    count = math.prod(len(supports[name]) ** elements[name] for name in finite)
    if count > ASSIGNMENTS:
        what = f"the finite latents of {program_name(p)} have {count} joint values"
        hint = f"beside real ones there may be {ASSIGNMENTS}; use NUTS on marginal(p, exact=True)"
        raise BudgetError(located(what, hint=hint))
    choices = [
        itertools.product(range(len(supports[name])), repeat=elements[name]) for name in finite
    ]
    return [
        {
            name: supports[name][torch.tensor(index)].reshape(site.space.shape)
            for (name, site), index in zip(finite.items(), joint, strict=True)
        }
        for joint in itertools.product(*choices)
    ]


def _possible(log_evidence: float) -> float:
    if log_evidence == -math.inf:
        raise ZeroMassError(located("the data are impossible under the program"))
    return log_evidence


def _derived(p: Callback, args: tuple[Any, ...], choices: dict[str, Tensor]) -> dict[str, Tensor]:
    recording = Recorder(choices, density=False, validate=False)
    with refusing(), no_validation(), Sealed(), recording as recorder:
        p(*args)
    found: dict[str, Tensor] = recorder.of("derived")
    return found
