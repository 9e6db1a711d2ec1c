"""Real latents in which a log density is quadratic, integrated out given all the others.

With x the vector of these it is s(x) = c + g x - x P x / 2, and the integral of exp s is that of a
normal law.  P ties coordinates into groups, which are found once; so many products with P as the
largest has members are enough for all, and each group is eliminated by itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import networkx as nx
import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from ..distributions.validate import no_validation
from ..errors import InfiniteMassError, ProgramError, located
from ..language.effects import Message, draw, is_deterministic, is_latent, scaled_log_prob
from ..language.handlers import Sealed, plated
from ..language.program import Callback, program_name
from ..tensors.abstract_tensor import concrete
from ..tensors.capture import Fillable, refusing
from ..tensors.following import tensors
from ..tensors.hidden import is_known
from ..tensors.polynomials import NotQuadratic, pieces, require_quadratic, ties
from ..tensors.seeds import seeded
from .abstract_run import AbstractRun
from .factors import described, in_one_lane, known, require_apart
from .layout import Layout

Values = dict[str, Tensor]
Score = Callable[[Tensor], Tensor]

PIVOT = 4.0  # roundings of a diagonal entry: what is left of one that is smaller is noise


class QuadraticLatents:
    """The real latents of ``p(*args)`` that are not in ``keep``, to be integrated out.

    ``layout`` maps vectors x [d] to them; ``given``: the other latents; ``groups`` [m, k]: the
    coordinates that are tied to each other, filled up with d.

    Args:
        observed: the latents that are kept are given as data are: they may depend on those that are
            not, and tell of them.

    Errors:
        NoDensityError: the program draws anonymously, or a plate draws its subsample.
        ProgramError: one of them is not real, a latent that is kept depends on one and is not
            observed, or the log density is not quadratic in them.
    """

    passes_steps = False

    def __init__(
        self, p: Callback, args: tuple[Any, ...], keep: Collection[str], *, observed: bool = False
    ) -> None:
        self.program, self.args = p, known(args)
        run = described(p, args)
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        if missing := sorted(set(keep) - latents.keys()):
            what = f"marginal keeps {missing}, which {program_name(p)} did not sample"
            hint = f"its latents are {', '.join(latents) or 'none'}"
            raise ProgramError(located(what, hint=hint))
        own = [name for name in latents if name not in keep]
        for name in own:
            if (space := latents[name].space).kind != "Real":
                what = f"the latent is neither finite nor real ({space}), and cannot be taken out"
                raise ProgramError(
                    located(what, site=name, line=latents[name].line, hint="keep it")
                )
        self.given = [name for name in latents if name not in own]
        if not observed:
            require_apart(run, self.given, own)
        self.unscored = {name for name in self.given if not run.parents[name] & set(own)}
        self.writes, self.branches = run.writes, run.branches
        self._others = {name: concrete(run.values[name]) for name in self.given}
        self.layout = _layout(run, own)
        smooth = [name for name in self.given if latents[name].space.smooth]
        with _parameters(run):
            self.groups = self._grouped(run, _layout(run, smooth), shown=args)

    def on(self, args: tuple[Any, ...]) -> QuadraticLatents:
        """The same latents for other arguments, of the same shapes, that tie them alike."""
        other = copy.copy(self)
        other.args = args
        return other

    @property
    def stand_ins(self) -> Values:
        """Zero for each latent."""
        return dict(self.layout.values(self.zero)[0])

    @property
    def zero(self) -> Tensor:
        """[d]"""
        return torch.zeros(self.layout.size, dtype=self.layout.dtype)

    def score(self, given: Values) -> Score:
        """s: the log density of all but the other latents, which are given.

        Of these, those that depend on the latents count.
        """

        def scored(choices: Values) -> Tensor:
            fill = Fillable(next(iter(choices.values()))) if self.writes else nullcontext()
            with refusing(), no_validation(), fill, Sealed(), _Rest(choices, self.unscored) as rest:
                self.program(*self.args)
            return rest.total

        def s(x: Tensor) -> Tensor:
            choices = {**self._others, **given, **self.layout.values(x)[0]}
            return in_one_lane(scored, choices) if self.branches else scored(choices)

        return s

    def log_mass(self, given: Values) -> Tensor:
        """The log of the integral of exp s."""
        s = self.score(given)
        law = self._law(s)
        return s(law.mean) + law.log_volume + 0.5 * self.layout.size * math.log(2 * math.pi)

    def draw(self, given: Values) -> Values:
        """One draw of the latents, from their law given the others."""
        law = self._law(self.score(given))
        standard = dist.Normal(torch.zeros_like(law.mean), 1.0).has_rsample_(False)  # also in lanes
        noise = draw(standard, label="posterior")
        return dict(self.layout.values(law.mean + law.spread(noise))[0])

    def _law(self, s: Score) -> Law:
        """The normal law with density proportional to exp s."""
        slope, product = _products(s, self.zero)
        own = self.groups < len(slope)  # the places that are not filled up
        units = torch.zeros(self.groups.shape[1], len(slope) + 1, dtype=slope.dtype)
        units.scatter_(1, self.groups.mT, 1.0)
        columns = [self._by_group(-product(unit)) for unit in units[:, :-1]]
        place = self.groups[own].argsort()  # of each coordinate, among those of all groups

        def flat(x: Tensor) -> Tensor:
            return x[own][place]

        if len(columns) == 1:
            precision = columns[0]
            self._require_finite(precision <= 0)
            mean = self._by_group(slope) / precision
            return Law(
                flat(mean), -0.5 * precision.log().sum(), lambda z: z / flat(precision).sqrt()
            )
        filling = torch.diag_embed((~own).to(slope.dtype))
        precisions = torch.stack(columns, -1) + filling
        root, _ = torch.linalg.cholesky_ex(precisions)
        flat_side = is_singular(root, precisions)
        self._require_finite(flat_side)
        root = root.masked_fill(flat_side[:, None, None], math.nan)
        mean = torch.cholesky_solve(self._by_group(slope)[..., None], root)[..., 0]

        def spread(z: Tensor) -> Tensor:
            right = self._by_group(z)[..., None]
            return flat(torch.linalg.solve_triangular(root.mT, right, upper=True)[..., 0])

        return Law(flat(mean), -root.diagonal(dim1=-2, dim2=-1).log().sum(), spread)

    def _require_finite(self, failed: Tensor) -> None:
        """Raise where the integral is infinite, if Python may look; elsewhere it is NaN."""
        if is_known(failed) and bool(failed.any()):
            names = ", ".join(block.name for block in self.layout.blocks)
            what = f"the integral over {names} is infinite: the density does not fall on all sides"
            raise InfiniteMassError(located(what, hint="give every latent a normal law"))

    def _by_group(self, x: Tensor) -> Tensor:
        """[d] as [m, k], with zeros where a group is filled up."""
        return torch.cat([x, x.new_zeros(1)])[self.groups]

    def _grouped(self, run: AbstractRun, others: Layout, shown: tuple[Any, ...]) -> Tensor:
        """The groups, told by numbers about one in place of what depends on the others alone.

        All are one group where P may have other entries elsewhere: where an operation on the way
        has pieces, for parameters, finite latents, and arguments that Python cannot look at.
        """
        whole = torch.arange(self.layout.size)[None]
        with seeded(0):
            u = torch.randn(others.size, dtype=others.dtype)

        def products(u: Tensor, at: Tensor, v: Tensor) -> Tensor:
            return _products(self.score(dict(others.values(u)[0])), at)[1](v)

        try:
            require_quadratic(self.score(dict(others.values(u)[0])), self.zero)
        except NotQuadratic as error:
            names = ", ".join(block.name for block in self.layout.blocks)
            what = f"the log density is not quadratic in {names}: {error}"
            raise ProgramError(located(what, hint="keep those in which it is not")) from error
        finite = len(others.blocks) < len(self.given)
        if finite or not all(map(is_known, tensors(shown))):
            return whole
        if pieces(lambda u: products(u, self.zero, torch.ones_like(self.zero)), u):
            return whole
        try:
            tied = ties(products, u, self.zero)
        except (RuntimeError, ValueError):  # numbers about one are none for this program
            return whole
        graph = nx.from_numpy_array((tied | tied.mT).numpy())
        found = [sorted(group) for group in nx.connected_components(graph)]
        k = max(map(len, found))
        return torch.tensor([group + [len(tied)] * (k - len(group)) for group in found])


def is_singular(root: Tensor, matrix: Tensor) -> Tensor:
    """Which symmetric matrices [..., k, k] are not positive definite, or no digit tells that."""
    own = matrix.diagonal(dim1=-2, dim2=-1)
    pivots = root.diagonal(dim1=-2, dim2=-1).square()
    return ~(pivots > PIVOT * torch.finfo(own.dtype).eps * own).all(-1)


class Law(NamedTuple):
    """A normal law of vectors [d].

    ``log_volume``: minus the log of its density at the mean, but for (2 pi)^(-d / 2).
    ``spread``: what makes its deviations [d] of those of a standard one.
    """

    mean: Tensor
    log_volume: Tensor
    spread: Callable[[Tensor], Tensor]


class _Rest(Messenger):  # type: ignore[misc]
    """Gives all choices, and sums what is scored but for some latents."""

    def __init__(self, choices: Values, unscored: Collection[str]) -> None:
        super().__init__()
        self.choices, self.unscored = choices, unscored
        self.total = torch.zeros(())

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg):
            msg["value"], msg["done"] = self.choices[msg["name"]], True

    def _postprocess_message(self, msg: Message) -> None:
        if (
            msg["type"] == "sample"
            and msg["name"] not in self.unscored
            and not is_deterministic(msg)
        ):
            self.total = self.total + scaled_log_prob(plated(msg))


def _products(s: Score, at: Tensor) -> tuple[Tensor, Score]:
    """The derivative [d] of s, and what multiplies vectors by its second derivative."""
    slope, back = torch.func.vjp(torch.func.grad(s), at)[:2]
    return slope, lambda v: back(v)[0]


def _parameters(run: AbstractRun) -> AbstractContextManager[Any]:
    """Pyro's store as a run left it, if that made parameters."""
    if run.parameters["params"].keys() <= set(pyro.get_param_store().keys()):
        return nullcontext()
    state: Any = {kind: dict(entries) for kind, entries in run.parameters.items()}
    scope: AbstractContextManager[Any] = pyro.get_param_store().scope(state)
    return scope


def _layout(run: AbstractRun, names: Collection[str]) -> Layout:
    sites = {name: run.sites[name].space for name in names}
    return Layout({n: (s.constraint, s.shape, run.dtypes[n]) for n, s in sites.items()})
