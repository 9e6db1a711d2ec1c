"""The factors of a program over its finite latents, found by running it in lanes.

What a site adds to the log density depends on the choices that it looks at, its family.  If the
members of every family have different colours, and lane by lane each colour takes all values, then
one run in lanes has the table of every site.  A hidden Markov model needs two colours: its k^2
lanes give all its factors, however long it is.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

import networkx as nx
import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_map

from ..distributions.validate import no_validation
from ..errors import BudgetError, NoDensityError, ProgramError, PushforwardError, located
from ..language.effects import (
    Message,
    draw,
    is_deterministic,
    is_latent,
    masked_log_prob,
)
from ..language.handlers import Sealed, is_one, plated
from ..language.program import Callback, program_name, signature
from ..tensors.abstract_tensor import Mark, abstract, concrete
from ..tensors.capture import Fillable, Unread, apart, refusing
from ..tensors.following import Reading, tensors
from ..tensors.hidden import is_hidden, is_known
from ..tensors.keys import Unkeyed
from ..tensors.origins import SEVERAL, Origins, plain
from .abstract_run import AbstractRun, abstract_run
from .elimination import Bucket, Factor, Variable, eliminated, largest, order_of
from .forward import Filtering, chain_of
from .looping import Memoryless

Tables = dict[str, tuple[Tensor, torch.Size]]  # of each site, and its batch shape

LANES = 100_000
T = TypeVar("T")


class FiniteLatents:
    """The finite latents of ``p(*args)``, and how what the program scores depends on them.

    ``values``: of each latent, what one element of it may be [k, *event]; ``shapes``: its batch
    shape; ``families``: of each scored site, the finite latents that it looks at, itself included;
    ``given``: the other latents, which must be given.

    Errors:
        BranchError: Python control flow depends on a random value.
        NoDensityError: the program draws anonymously.
        ProgramError: nothing is finite, or a given latent depends on a finite one.
    """

    def __init__(self, p: Callback, args: tuple[Any, ...], keep: frozenset[str] | None = None):
        self.program, self.args = p, known(args)
        run = described(p, args)
        self.writes, self.branches = run.writes, run.branches
        latents = {name: site for name, site in run.sites.items() if not site.observed}
        finite = {n: s for n, s in latents.items() if s.space.finite and n not in (keep or ())}
        if missing := sorted((keep or frozenset()) - latents.keys()):
            what = f"marginal keeps {missing}, which {program_name(p)} did not sample"
            raise ProgramError(
                located(what, hint=f"its latents are {', '.join(latents) or 'none'}")
            )
        if keep is not None and (unlisted := latents.keys() - finite.keys() - keep):
            name = min(unlisted)
            what = f"the latent is not finite ({latents[name].space}), and cannot be summed out"
            raise ProgramError(located(what, site=name, line=latents[name].line, hint="keep it"))
        if not finite:
            what = f"{program_name(p)} has no finite latent to eliminate"
            raise ProgramError(
                located(what, hint=f"its latents are {', '.join(latents) or 'none'}")
            )
        self.given = [name for name in latents if name not in finite]
        require_apart(run, self.given, finite)
        self.values = {
            n: s.space.enumerate().to(run.dtypes[n]) for n, s in finite.items()
        }  # [k, *event]
        self.shapes = {name: torch.Size(site.space.batch_shape) for name, site in finite.items()}
        images = run.derived.keys() & run.scores.keys()  # points that may score
        unscored = (latents.keys() - finite.keys()) | (run.derived.keys() - images)
        scored = [name for name in run.parents if name not in unscored]
        self.lines = {**run.scores, **{name: site.line for name, site in run.sites.items()}}
        self.families = {
            name: [v for v in finite if v in run.parents[name] or v == name] for name in scored
        }
        self.colours = self._coloured()
        self.chain = chain_of(self.values, self.shapes, self.families, self.given)
        self._stand_ins = {name: concrete(run.values[name]) for name in self.given}
        if self.chain is not None and not self._filters():
            self.chain = None

    def looks(self) -> dict[str, dict[str, Tensor]]:
        """Of each scored site and each latent of its family: at which element each entry looks.

        The elements of a latent are numbered from 1 on; 0 is none.  It is told by what operations
        do to places, not by numbers.  All branches of the program count.

        Errors:
            ProgramError: an entry looks at several elements of a latent, or may.
        """
        found: dict[str, dict[str, Tensor]] = {}

        def lane(first: dict[str, Tensor]) -> Tensor:
            for name, log_prob in self.added({**self._stand_ins, **first}).items():
                maps = origins.of(log_prob)
                none = plain(torch.zeros(log_prob.shape, dtype=torch.int64))
                found[name] = {v: maps.get(v, none) for v in self._family(name)}
            return torch.zeros(())

        with torch.no_grad(), Origins() as origins, Unread(), refusing():
            first = {}
            for name, values in self.values.items():
                batch = self.shapes[name]
                one = values[:1].expand(1, *batch, *values.shape[1:])
                first[name] = origins.follow(name, one, batch.numel())
            torch.func.vmap(lane)(first)
        for name, maps in found.items():
            for v, told in maps.items():
                if bool((told >= SEVERAL).any()):
                    what = f"the site looks at several elements of the finite latent '{v}'"
                    hint = "sample the elements one by one, or index them by data"
                    raise ProgramError(located(what, site=name, line=self.lines[name], hint=hint))
        return found

    def _coloured(self) -> dict[str, int]:
        """A colour for each latent, such that the members of a family differ."""
        graph = nx.Graph()
        graph.add_nodes_from(self.values)
        for family in self.families.values():
            graph.add_edges_from(itertools.combinations(family, 2))
        colours: dict[str, int] = nx.greedy_color(graph, "largest_first")
        return colours

    # ------------------------------------------------------------------------------------- factors

    @property
    def sizes(self) -> list[int]:
        """How many values an element of each latent has."""
        return [len(values) for values in self.values.values()]

    @property
    def stand_ins(self) -> dict[str, Tensor]:
        """Of each latent, its first value everywhere."""
        return {n: v[0].expand((*self.shapes[n], *v.shape[1:])) for n, v in self.values.items()}

    @property
    def passes_steps(self) -> bool:
        """Whether the latents are those of the steps of one loop."""
        return self.chain is not None

    def on(self, args: tuple[Any, ...], program: Callback | None = None) -> FiniteLatents:
        """The same latents for other arguments, of the same shapes; of another program if given."""
        other = copy.copy(self)
        other.args, other.program = args, program or self.program
        return other

    def alone(self) -> FiniteLatents:
        """What is known of the latents, without the program and its arguments."""
        other = copy.copy(self)
        other.args, other.program = (), _forgotten
        return other

    def solved(self, given: dict[str, Tensor]) -> Solved:
        """Sum the finite latents out, for these values of the others.

        Errors:
            BudgetError: a family has too many joint values, or an elimination a large table.
            ProgramError: a latent is in a scaled plate, or a site looks at several elements of one.
        """
        tables, looks = self.tables(given), self.looks()
        alike = self.alike(tables, looks)
        factors, constant = self.factors(tables, looks, alike)
        total, buckets = eliminated(factors, order_of(factors))
        return Solved(self, total.sum() + constant, buckets, alike, factors, constant)

    def _filters(self) -> bool:
        """Whether forward filtering gives what elimination does, at one place.

        It does not where a step sees an earlier one otherwise than by its carry.
        """
        try:
            with torch.no_grad(), Sealed():
                found = self._filtered(self._stand_ins, Memoryless())
                expected = self.solved(self._stand_ins).log_mass
        except (PushforwardError, RuntimeError, TypeError, ValueError):
            return False
        return bool(torch.isclose(found, expected, rtol=1e-4, atol=1e-6, equal_nan=True))

    def log_mass(self, given: dict[str, Tensor]) -> Tensor:
        """The log of what ``solved`` sums to, along a chain by forward filtering."""
        if self.chain is None:
            return self.solved(given).log_mass
        return self._filtered(given)

    def _filtered(self, given: dict[str, Tensor], judge: Memoryless | None = None) -> Tensor:
        assert self.chain is not None
        fill = Fillable(next(iter(given.values()))) if self.writes and given else nullcontext()
        with no_validation(), fill, Filtering(self.chain, given, judge) as filtering:
            self.program(*self.args)
        found: Tensor = filtering.log_mass
        return found

    def alike(self, tables: Tables, looks: dict[str, dict[str, Tensor]]) -> bool:
        """Whether elements are copies: of one shape, and each site looks at those in its place."""
        shapes = {*self.shapes.values(), *(x[1] for n, x in tables.items() if self.families[n])}
        places = torch.arange(1, next(iter(shapes)).numel() + 1)
        told = (each.reshape(-1) for maps in looks.values() for each in maps.values())
        return len(shapes) == 1 and all(torch.equal(each, places) for each in told)

    def factors(
        self, tables: Tables, looks: dict[str, dict[str, Tensor]], alike: bool
    ) -> tuple[list[Factor], Tensor]:
        """The factors over latents, or over their elements unless they are alike; and the rest."""
        factors, constant = list[Factor](), torch.zeros(())
        for name, (table, _) in tables.items():
            family = tuple(self._family(name))
            flat = table.reshape(*table.shape[: len(family)], -1)
            if not family:
                constant = constant + table.sum()
            elif alike:
                factors.append(Factor(family, flat))
            else:
                factors += by_element(family, flat, looks[name])
        return factors, constant

    def _family(self, name: str) -> list[str]:
        """In the order of the axes of a table."""
        return sorted(self.families[name], key=self.colours.__getitem__)

    def tables(self, given: dict[str, Tensor]) -> Tables:
        """What each site adds: [*sizes of its family, *batch], and its batch shape."""
        sizes = [
            max(len(self.values[n]) for n, c in self.colours.items() if c == colour)
            for colour in range(1 + max(self.colours.values()))
        ]
        if math.prod(sizes) > LANES:
            what = f"the families of {program_name(self.program)} need {math.prod(sizes)} lanes"
            raise BudgetError(located(what, hint="too many choices depend on each other: sample"))
        lanes = torch.cartesian_prod(*map(torch.arange, sizes)).reshape(-1, len(sizes))

        def lane(colour: Tensor) -> dict[str, Tensor]:
            at = {
                name: (colour[self.colours[name]] % len(values)).expand(self.shapes[name])
                for name, values in self.values.items()
            }
            return self.added({**given, **self.choices_at(at)})

        with refusing():
            found = torch.func.vmap(lane)(lanes)
        tables = {}
        for name, column in found.items():
            table, family = column.reshape(*sizes, *column.shape[1:]), self._family(name)
            for colour in reversed(range(len(sizes))):
                if colour not in [self.colours[v] for v in family]:
                    table = table.select(colour, 0)
            for axis, v in enumerate(family):
                table = table.narrow(axis, 0, len(self.values[v]))
            tables[name] = table, column.shape[1:]
        return tables

    def choices_at(self, index: dict[str, Tensor]) -> dict[str, Tensor]:
        """The values of the latents whose elements have these numbers [*batch]."""
        return {
            name: self.values[name]
            .index_select(0, at.reshape(-1))
            .reshape((*at.shape, *self.values[name].shape[1:]))
            for name, at in index.items()
        }

    def added(self, choices: dict[str, Tensor]) -> dict[str, Tensor]:
        """What each scored site adds to the log density at these choices, elementwise."""
        fill = Fillable(next(iter(choices.values()))) if self.writes else nullcontext()

        def scored(choices: dict[str, Tensor]) -> dict[str, Tensor]:
            with no_validation(), fill, Sealed(), _Scoring(choices, self.families) as scoring:
                self.program(*self.args)
            return scoring.added

        given = {**self._stand_ins, **choices}  # where a branch is not taken, it made none
        return in_one_lane(scored, given) if self.branches else scored(given)


def by_element(
    family: tuple[str, ...], table: Tensor, looks: dict[str, Tensor]
) -> Iterator[Factor]:
    """The factors [*sizes, 1] of a site over elements; entries that look at the same ones add up.

    Args:
        table: [*sizes of the family, entries of the site].
        looks: at which element of each latent an entry looks, 0 for none.
    """
    codes = torch.stack([looks[v].reshape(-1) for v in family], 1)  # [entries, family]
    groups, group = torch.unique(codes, dim=0, return_inverse=True)
    summed = table.new_zeros(*table.shape[:-1], len(groups)).index_add(-1, group, table)
    for i, elements in enumerate(groups.tolist()):
        own = summed[..., i]
        for axis in reversed(range(len(family))):
            if elements[axis] == 0:
                own = own.select(axis, 0)
        variables = tuple((v, e - 1) for v, e in zip(family, elements, strict=True) if e)
        yield Factor(variables, own.unsqueeze(-1))


@dataclass(frozen=True)
class Solved:
    """The finite latents of a program summed out.

    ``alike``: the variables are latents with all their elements as copies; else (latent, element).
    """

    model: FiniteLatents
    log_mass: Tensor
    buckets: list[Bucket]
    alike: bool
    factors: list[Factor]
    constant: Tensor

    def draw(self, n: int) -> dict[str, Tensor]:
        """n independent draws from the posterior of the latents, [n, *batch, *event].

        Where the mass is zero, which ``log_mass`` tells, they are any values.
        """
        index: dict[Variable, Tensor] = {}
        for variable, joint in reversed(self.buckets):
            table = joint.table.movedim(0, -1)  # [*others, copies, k]
            copies = torch.arange(table.shape[-2])
            others = tuple(index[v] for v in joint.variables[1:])
            logits = table[(*others, copies)].expand(n, len(copies), -1)
            logits = torch.where(logits.isneginf().all(-1, keepdim=True), 0.0, logits)
            index[variable] = draw(dist.Categorical(logits=logits), label="posterior")
        return self.model.choices_at(self._by_latent(index, (n,)))

    def most_probable(self) -> dict[str, Tensor]:
        """The joint value of the latents of largest posterior probability, [*batch, *event].

        Of several that are equally probable it is one.
        """
        order = [bucket.variable for bucket in self.buckets]
        _, buckets = eliminated(self.factors, order, largest)
        index: dict[Variable, Tensor] = {}
        for variable, joint in reversed(buckets):
            table = joint.table.movedim(0, -1)  # [*others, copies, k]
            others = tuple(index[v] for v in joint.variables[1:])
            index[variable] = table[(*others, torch.arange(table.shape[-2]))].argmax(-1)
        return self.model.choices_at(self._by_latent(index, ()))

    def probabilities(self) -> dict[str, Tensor]:
        """The posterior probability of each value of each latent, [*batch, k].

        They are the derivatives of the log mass by additions to the log density.
        """
        with torch.enable_grad():
            variables = [bucket.variable for bucket in self.buckets]
            sizes = {b.variable: b.factor.table.shape[0] for b in self.buckets}
            copies = self.buckets[0].factor.table.shape[-1] if self.alike else 1
            extra = [self.factors[0].table.new_zeros(sizes[v], copies) for v in variables]
            for each in extra:
                each.requires_grad_()
            added = [Factor((v,), x) for v, x in zip(variables, extra, strict=True)]
            plain = [Factor(f.variables, f.table.detach()) for f in self.factors]
            total, _ = eliminated([*plain, *added], variables)
            slopes = torch.autograd.grad(total.sum(), extra)
        found = dict(zip(variables, slopes, strict=True))
        by_value = {v: slope.t() for v, slope in found.items()}  # [copies, k]
        if self.alike:
            return {
                name: by_value[name].reshape(*self.model.shapes[name], -1)
                for name in self.model.values
            }
        return {
            name: torch.stack(
                [by_value[name, e][0] for e in range(self.model.shapes[name].numel())]
            ).reshape(*self.model.shapes[name], -1)
            for name in self.model.values
        }

    def _by_latent(self, index: dict[Variable, Tensor], lead: tuple[int, ...]) -> dict[str, Tensor]:
        """Numbers [*lead, *batch] of the elements of each latent."""
        shapes = self.model.shapes
        if self.alike:
            return {name: index[name].reshape((*lead, *shape)) for name, shape in shapes.items()}
        return {
            name: torch.stack([index[name, e][..., 0] for e in range(shape.numel())], -1).reshape(
                (*lead, *shape)
            )
            for name, shape in shapes.items()
        }


def known(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with ones in place of tensors that Python cannot look at."""
    found: tuple[Any, ...] = tree_map(lambda x: x if is_known(x) else _ones(x), args)
    return found


def _ones(x: Tensor) -> Tensor:
    return torch.ones(x.shape, dtype=x.dtype, device=x.device)


def described(p: Callback, args: tuple[Any, ...]) -> AbstractRun:
    """The abstract run of a program whose choices all have names.

    Errors:
        NoDensityError: it draws anonymously, or a plate draws its subsample.
    """
    marked = frozenset([Mark("an argument", smooth=True)])
    shown = tree_map(lambda x: abstract(_ones(x), marked) if is_hidden(x) else x, args)
    hidden = any(map(is_hidden, tensors(args)))  # else what reads arguments is to be seen
    with Sealed(), apart() if hidden else nullcontext():
        run, _ = abstract_run(p, *shown)
    if run.draws:
        what = f"{program_name(p)} draws anonymously, which cannot be summed out"
        hint = "name the choices with sample(...)"
        raise NoDensityError(located(what, line=run.draw_line, hint=hint))
    for name, (part, line) in run.subsampled.items():
        what = f"the plate draws {part}, so that the density is random"
        hint = "give the indices as subsample=..., or use all the data"
        raise NoDensityError(located(what, site=name, line=line, hint=hint))
    return run


def require_apart(run: AbstractRun, kept: Iterable[str], others: Collection[str]) -> None:
    """Raise if a latent that is kept depends on one of the others.

    Errors:
        ProgramError: it does.
    """
    for name in kept:
        if seen := run.parents[name] & set(others):
            what = f"the latent depends on {sorted(seen)}, which are to be eliminated"
            line = run.sites[name].line
            raise ProgramError(located(what, site=name, line=line, hint="sample those too"))


def in_one_lane(f: Callable[[dict[str, Tensor]], T], choices: dict[str, Tensor]) -> T:
    """f(choices) where Python cannot look at them, so that all branches of the program run."""
    found = torch.func.vmap(f)({name: x.unsqueeze(0) for name, x in choices.items()})
    result: T = tree_map(lambda x: x.squeeze(0), found)
    return result


def _forgotten(*args: Any) -> Any:
    raise AssertionError("the latents stand alone: on(args, program) gives them a program")


class _Scoring(Messenger):  # type: ignore[misc]
    """Gives all choices, and notes what those sites add that have a family, elementwise."""

    def __init__(self, choices: dict[str, Tensor], families: dict[str, list[str]]) -> None:
        super().__init__()
        self.choices, self.families = choices, families
        self.added: dict[str, Tensor] = {}

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and is_latent(msg):
            msg["value"], msg["done"] = self.choices[msg["name"]], True

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or msg["name"] not in self.families or is_deterministic(msg):
            return
        if not is_one(msg["scale"]):
            what = "a site in a subsampled or scaled plate cannot be summed over"
            raise ProgramError(located(what, site=msg["name"], hint="use all the data"))
        self.added[msg["name"]] = masked_log_prob(plated(msg))


class Structures(Unkeyed):
    """What was found of programs for arguments of a kind, or of given values if they were read.

    A program may branch by its arguments; what is found then holds for those values only.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, tuple[list[Tensor] | None, Any]] = {}

    def of(self, key: Hashable, args: tuple[Any, ...], find: Callable[[], T]) -> T:
        """What ``find`` finds, or what it found for these arguments before."""
        key = (key, signature(args))
        values, found = self._known.get(key, ([], None))
        given = list(tensors(args))
        if found is None or not (values is None or _equal(values, given)):
            with Reading(x for x in given if not is_hidden(x)) as reading:
                found = find()
            kept = [x.detach().clone() for x in given] if reading.found else None
            self._known[key] = kept, found
        result: T = found
        return result


def _equal(a: list[Tensor], b: list[Tensor]) -> bool:
    """Whether tensors hold the same numbers, as far as Python may look at them."""
    return all(is_known(y) and torch.equal(x, y) for x, y in zip(a, b, strict=True))
