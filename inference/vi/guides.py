"""Guides made from the type of a model: modules that propose its latents.

The real latents are a smooth function of standard normal noise: a vector u in unconstrained
coordinates, moved into the supports by the bijections of ``ppl.types.bijections``.  The kinds
differ in how u is made.  Finite latents get independent tables of logits.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ...ppl.distributions.data import as_arguments
from ...ppl.distributions.strategies import enum, reparam
from ...ppl.errors import GuideError, UnsupportedDistributionError, located
from ...ppl.interpretations.abstract_run import AbstractRun, abstract_run
from ...ppl.interpretations.dependence_graph import dependence_graph
from ...ppl.interpretations.layout import Layout
from ...ppl.language.effects import sample
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback, program_name
from ...ppl.types import Site

NOISE = "_noise"
SPREAD = 0.1  # the scale of every guide at its start

Wrap = Callable[[Any], Any]


class Guide(nn.Module):
    """A guide for the latents of ``model(*args)``; see the module.

    Args:
        finite: the strategy of finite latents.
        only: the latents that are proposed, by name; all unless given.

    Errors:
        UnsupportedDistributionError: a latent is neither continuous nor finite.
        GuideError: a latent is in a plate that takes a part of its data, or is scaled.
        BranchError, ProgramError: the model has no type.
    """

    def __init__(
        self,
        model: Callback,
        *args: Any,
        finite: Wrap = enum,
        only: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        self.finite, self.name = finite, program_name(model)
        run = typed(model, args)
        latents = {n: s for n, s in run.sites.items() if not s.observed}
        if only is not None:
            if unknown := sorted(set(only) - latents.keys()):
                what = f"{self.name} has no latents {unknown}"
                raise GuideError(located(what, hint=f"its latents are {sorted(latents)}"))
            latents = {n: s for n, s in latents.items() if n in only}
        for name, site in latents.items():
            if part := set(site.plates) & (run.subsampled.keys() | run.given_parts.keys()):
                what = f"the latent is in the plate '{min(part)}', which takes a part of its data"
                hint = "each datum needs parameters of its own: use Amortised for the plate"
                raise GuideError(located(what, site=name, line=site.line, hint=hint))
            if name in run.scaled:
                what = "the latent is scaled, which its guide would have to be too"
                hint = "scale the observations only, or write the guide under the same scale"
                raise GuideError(located(what, site=name, line=site.line, hint=hint))
        smooth = {n: s for n, s in latents.items() if s.space.smooth and n not in run.points}
        self.layout = Layout(
            {n: (s.space.constraint, s.space.shape, run.dtypes[n]) for n, s in smooth.items()}
        )
        self.logits = nn.ParameterDict()
        self.tables = {n: s for n, s in latents.items() if n not in smooth}
        for name, site in self.tables.items():
            self.logits[key_of(name)] = nn.Parameter(_table(name, site))
        if self.layout.size:
            self.build(model, args)

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        """Make the parameters of u."""
        raise NotImplementedError

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        """u [d] from noise [d], with log |du / dnoise|."""
        raise NotImplementedError

    def parameter(self, *shape: int, fill: float = 0.0) -> nn.Parameter:
        return nn.Parameter(torch.full(shape, fill, dtype=self.layout.dtype))

    def forward(self, *args: Any) -> dict[str, Tensor]:
        """Sample all latents; the result holds them by name."""
        found = {}
        for name, site in self.tables.items():
            law = _finite_law(site, self.logits[key_of(name)])
            found[name] = sample(name, self.finite(law))
        if not self.layout.size:
            return found
        device = next(self.parameters()).device
        zeros = torch.zeros(self.layout.size, dtype=self.layout.dtype, device=device)
        standard = dist.Normal(zeros, torch.ones_like(zeros)).to_event(1)
        noise = sample(NOISE, standard, infer={"is_auxiliary": True})
        u, log_det = self.move(noise)
        values, log_unconstraining = self.layout.unpack(u)
        left = -(log_det + log_unconstraining)
        for name, value in values.items():
            law = dist.Delta(value, log_density=left, event_dim=value.ndim)
            found[name] = sample(name, reparam(law))
            left = torch.zeros_like(left)
        return found

    def extra_repr(self) -> str:
        names = [block.name for block in self.layout.blocks]
        return f"for {self.name}: {', '.join([*names, *self.tables])}"


def typed(model: Callback, args: tuple[Any, ...]) -> AbstractRun:
    """The abstract run of a model."""
    with Sealed():
        return abstract_run(model, *as_arguments(args))[0]


def key_of(name: str) -> str:
    """A name that a ParameterDict takes."""
    return name.replace(".", "_")


def _table(name: str, site: Site) -> Tensor:
    if not site.space.finite or site.space.shape != site.space.batch_shape:
        what = f"no guide is made for {site.space}: it is neither continuous nor finite"
        hint = "write the guide, or sum the latent out by marginal(..., exact=True)"
        raise UnsupportedDistributionError(located(what, site=name, line=site.line, hint=hint))
    values = len(site.space.enumerate())
    more = () if site.space.kind == "Bool" else (values,)
    return torch.zeros((*site.space.batch_shape, *more))


def _finite_law(site: Site, logits: Tensor) -> Any:
    if site.space.kind == "Bool":
        return dist.Bernoulli(logits=logits)
    return dist.Categorical(logits=logits)


class MeanField(Guide):
    """u = loc + scale * noise: all coordinates independent."""

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        self.loc = self.parameter(self.layout.size)
        self.log_scale = self.parameter(self.layout.size, fill=math.log(SPREAD))

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        return self.loc + self.log_scale.exp() * noise, self.log_scale.sum()


class FullRank(Guide):
    """u = loc + L noise, L lower triangular: any normal law."""

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        d = self.layout.size
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        self.below = self.parameter(d, d)

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        scale = self.log_scale.exp()
        return self.loc + scale * (noise + self.below.tril(-1) @ noise), self.log_scale.sum()


class LowRank(Guide):
    """u = loc + scale * (noise + W (V' noise)), of rank ``rank`` beside the diagonal.

    The determinant of I + W V' is that of the small matrix I + V' W.
    """

    def __init__(self, model: Callback, *args: Any, rank: int = 4, **about: Any) -> None:
        self.rank = rank
        super().__init__(model, *args, **about)

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        d = self.layout.size
        self.rank = min(self.rank, d)
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        start = torch.linspace(-0.1, 0.1, d * self.rank, dtype=self.layout.dtype)
        self.left = nn.Parameter(start.reshape(d, self.rank).clone())
        self.right = self.parameter(d, self.rank)

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        spread = noise + self.left @ (self.right.T @ noise)
        small = torch.eye(self.rank).to(noise) + self.right.T @ self.left
        log_det = self.log_scale.sum() + torch.linalg.slogdet(small)[1]
        return self.loc + self.log_scale.exp() * spread, log_det


class Flow(Guide):
    """u by affine couplings: each half in turn is scaled and moved by a network of the other.

    Source: Dinh, Sohl-Dickstein, Bengio (arXiv 1605.08803).
    """

    def __init__(
        self, model: Callback, *args: Any, layers: int = 4, hidden: int = 32, **about: Any
    ) -> None:
        self.layers, self.hidden = layers, hidden
        super().__init__(model, *args, **about)

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        d = self.layout.size
        if d < 2:
            raise GuideError(located("a flow needs at least two coordinates", hint="MeanField"))
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        halves = [d // 2 if i % 2 == 0 else d - d // 2 for i in range(self.layers)]
        self.networks = nn.ModuleList(
            nn.Sequential(
                nn.Linear(kept, self.hidden), nn.Tanh(), nn.Linear(self.hidden, 2 * (d - kept))
            ).to(self.layout.dtype)
            for kept in halves
        )
        for network in self.networks:
            last = list(network.parameters())[-2:]
            for parameter in last:
                parameter.data.zero_()

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        half, u, log_det = self.layout.size // 2, noise, self.log_scale.sum()
        for i, network in enumerate(self.networks):
            first, second = u[:half], u[half:]
            kept, moved = (first, second) if i % 2 == 0 else (second, first)
            shift, raw = network(kept).chunk(2)
            log_scale = raw.tanh()
            moved = moved * log_scale.exp() + shift
            u = torch.cat((kept, moved) if i % 2 == 0 else (moved, kept))
            log_det = log_det + log_scale.sum()
        return self.loc + self.log_scale.exp() * u, log_det


class Structured(Guide):
    """u_i = loc_i + scale_i noise_i + sum_j w_ij u_j, over the latents j that i looks at.

    Coordinates are in the order of the dependence graph; each looks at those of its parents.
    """

    mask: Tensor
    rows: Tensor

    def build(self, model: Callback, args: tuple[Any, ...]) -> None:
        graph = dependence_graph(model, *args)
        order = [name for name in graph.order() if name in {b.name for b in self.layout.blocks}]
        blocks = {block.name: block for block in self.layout.blocks}
        d = self.layout.size
        mask = torch.zeros(d, d, dtype=self.layout.dtype)
        for name in order:
            for parent in graph.parents(name) & blocks.keys():
                child, source = blocks[name], blocks[parent]
                mask[child.start : child.stop, source.start : source.stop] = 1.0
        rows = [i for name in order for i in range(blocks[name].start, blocks[name].stop)]
        self.register_buffer("mask", mask)
        self.register_buffer("rows", torch.tensor(rows))
        self.loc = self.parameter(d)
        self.log_scale = self.parameter(d, fill=math.log(SPREAD))
        self.weights = self.parameter(d, d)

    def move(self, noise: Tensor) -> tuple[Tensor, Tensor]:
        own = self.loc + self.log_scale.exp() * noise
        weights = (self.weights * self.mask)[self.rows][:, self.rows]
        system = torch.eye(self.layout.size).to(noise) - weights
        ordered = torch.linalg.solve_triangular(
            system, own[self.rows][:, None], upper=False, unitriangular=True
        )[:, 0]
        return torch.zeros_like(own).index_copy(0, self.rows, ordered), self.log_scale.sum()


class Amortised(nn.Module):
    """A guide for the latents of one plate, by a network of each datum.

    Args:
        network: from the inputs [n, ...] to [n, 2 d], d the unconstrained coordinates of a datum:
            locations, and what softplus makes scales of.
        plate: the name of the plate; its subsample is that of the model.
        inputs: a function of the arguments of the model to one row for each datum.
        rest: a guide for all other latents, called first; what it returns by name is returned too.
            A kind, such as ``MeanField`` or ``partial(LowRank, rank=2)``, is made for them.

    Where the model gives the plate the indices of a batch (``subsample=``), ``inputs`` gives the
    rows of that batch.

    Errors:
        GuideError: the model has no such plate, or latents outside it and no ``rest``; or the rows
            are not those of the batch.
    """

    def __init__(
        self,
        model: Callback,
        *args: Any,
        network: nn.Module,
        plate: str,
        inputs: Callable[..., Tensor] = lambda *args: args[0],
        rest: Callable[..., Any] | None = None,
    ) -> None:
        super().__init__()
        run = typed(model, args)
        latents = {n: s for n, s in run.sites.items() if not s.observed}
        local = {n: s for n, s in latents.items() if s.plates == (plate,)}
        if not local:
            what = f"{program_name(model)} has no latents in the plate '{plate}' alone"
            raise GuideError(located(what, hint=f"its plates are {sorted(run.sizes) or 'none'}"))
        others = sorted(latents.keys() - local.keys())
        if others and rest is None:
            raise GuideError(located(f"nothing proposes {others}", hint="give rest=, a guide"))
        if others and isinstance(rest, type | functools.partial):
            rest = rest(model, *args, only=others)
        self.network, self.rest, self.inputs, self.plate = network, rest, inputs, plate
        self.size = run.sizes[plate][0]
        part = next(iter(local.values())).space.shape[0]
        self.part = part if plate in run.subsampled else None
        self.given = plate in run.given_parts
        self.layout = Layout(
            {n: (s.space.constraint, s.space.shape[1:], run.dtypes[n]) for n, s in local.items()}
        )

    def forward(self, *args: Any) -> dict[str, Tensor]:
        proposed = self.rest(*args) if self.rest is not None else {}
        found = dict(proposed) if isinstance(proposed, Mapping) else {}
        rows = self.inputs(*args)
        if self.given and len(rows) == self.size:
            what = f"inputs gives all {self.size} rows of '{self.plate}', whose indices are given"
            hint = "give the rows of the batch: inputs=lambda ...: x[i]"
            raise GuideError(located(what, hint=hint))
        batch = torch.arange(len(rows)) if self.given else None
        with pyro.plate(self.plate, self.size, self.part, subsample=batch) as index:
            loc, raw = self.network(rows[index] if len(rows) == self.size else rows).chunk(2, -1)
            scale = nn.functional.softplus(raw)
            standard = dist.Normal(torch.zeros_like(loc), 1.0).to_event(1)
            noise = sample(f"{self.plate}{NOISE}", standard, infer={"is_auxiliary": True})
            values, log_det = torch.func.vmap(self.layout.unpack)(loc + scale * noise)
            left = -(log_det + scale.log().sum(-1))
            for name, value in values.items():
                law = dist.Delta(value, log_density=left, event_dim=value.ndim - 1)
                found[name] = sample(name, reparam(law))
                left = torch.zeros_like(left)
        return found
