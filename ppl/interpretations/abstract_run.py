"""The abstract run: a program's type and dependence, without sampling.

Arguments and data keep their values, so control flow on them works.  Only sampled values are
abstract: tensors of the right shape and dtype that remember which choices they depend on.  A
program that looks at one of them (branches, counts or indexes by it in Python) is refused with the
line.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import pyro
import torch
from pyro import distributions as pyro_dist
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from ..distributions.data import as_arguments, one_precision, own_dtype
from ..distributions.masks import is_image, weighs
from ..distributions.points import inner_point
from ..distributions.pytrees import flatten, rebuild
from ..distributions.support import lists_values
from ..distributions.validate import (
    check_alike,
    check_parameters,
    check_shape,
    check_values,
    impossible_data,
    no_validation,
)
from ..errors import (
    BranchError,
    DuplicateNameError,
    ImpureProgramError,
    NoDensityError,
    ProgramError,
    SupportError,
    UnsupportedDistributionError,
    checked,
    implemented,
    located,
    user_line,
)
from ..language.batching import run_batched
from ..language.combinators import Lanes, untraced, weighted
from ..language.coverage import Coverage, Hearing
from ..language.effects import Message, is_deterministic, is_draw, is_masked, is_subsample, taken_by
from ..language.handlers import Sealed, is_one, require_meaning
from ..language.program import Callback, Program, answers, program_name
from ..tensors.abstract_tensor import (
    ARGUMENTS,
    WRITTEN,
    Mark,
    Marks,
    abstract,
    choices_of,
    concrete,
    dependence,
    marks_of,
    storage,
)
from ..tensors.decompositions import Decomposing
from ..tensors.keys import Bookkeeping, fingerprint
from ..types import ProgramType, Site, TraceType, space_of, space_of_value
from .declarations import Found, Look, declaration, held, unconditioned

T = TypeVar("T")


class AbstractRun(Messenger):  # type: ignore[misc]
    """Collects the sites of a program while it runs on abstract choices.

    ``subsampled``: plates that draw their indices: how many, and where; the run takes the first.
    ``parameters``: the state of Pyro's parameter store after the run; the store is as it was.
    ``writes``: whether a random value is written in place into a tensor; ``branches``: whether one
    picks a branch of ``cond`` or ``switch``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}
        self.parents: dict[str, frozenset[str]] = {}  # of every site: the choices that it looks at
        self.lines: dict[str, str] = {}
        self.jumps: dict[str, Mark] = {}  # scores that are not continuous in a choice
        self.sizes: dict[str, tuple[int, str]] = {}  # plates, and where each was first met
        self.derived: dict[str, str] = {}  # deterministic sites, and their lines
        self.plates: dict[str, tuple[str, ...]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.precisions: dict[str, torch.dtype] = {}  # of the laws of all sites
        self.values: dict[str, Tensor] = {}  # the placeholders of the latents
        self.subsampled: dict[str, tuple[str, str]] = {}
        self.given_parts: dict[str, int] = {}  # plates that are given some of their indices
        self.scaled: set[str] = set()  # latents that stand for more or less than their law
        self.parameters: Any = {"params": {}, "constraints": {}}
        self.points: set[str] = set()  # latents whose law is carried by single values
        self.scores: dict[str, str] = {}  # observations and factors, and their lines
        self.coverage = Coverage()
        self.draws, self.writes, self.branches = 0, False, False
        self.draw_line: str | None = None

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "cond" and dependence(msg["args"][0]):
            msg["fn"] = msg["infer"]["branches"].run_all
            self.branches = True
        elif msg["type"] == "vmap":
            msg["fn"] = through_lanes(msg["infer"]["lanes"], self.look)
        elif msg["type"] == "call" and "program" in msg["infer"]:
            msg["fn"] = held_call(msg, self.look)
        elif msg["type"] == "normalize":
            msg["fn"] = functools.partial(Query, msg["infer"]["query"])

    def _sample(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        require_meaning(self)
        if is_subsample(msg):
            self._subsample(msg)
            return
        if is_draw(msg):
            self.draws += 1
            self.draw_line = self.draw_line or user_line()
            msg["value"] = _chosen(msg, marks_on(fn) | _hidden(msg).depends)
            return
        if name in self.lines:
            raise DuplicateNameError(
                located(
                    f"the name is used twice (first at {self.lines[name]})",
                    site=name,
                    hint="rename one of the sites",
                )
            )
        self.lines[name] = user_line()
        self.plates[name] = tuple(frame.name for frame in msg["cond_indep_stack"])
        if is_deterministic(msg):
            self.parents[name], self.derived[name] = dependence(msg["value"]), user_line()
            return
        data = msg["value"] if msg["is_observed"] else None
        check_alike(name, fn, data)
        check_parameters(name, fn)
        self.precisions[name] = own_dtype(fn)
        context = data, msg["mask"], taken_by(msg)
        marks = marks_on(fn) | _hidden(msg).depends | marks_of(context)
        if is_masked(msg):
            marks |= _hidden(msg).taken
        self.jumps.update((name, mark) for mark in sorted(marks) if mark.jump)
        self.parents[name] = choices_of(marks)
        if msg["is_observed"]:
            self.scores[name] = user_line()
            if is_image(fn, msg["value"]):
                self.derived[name] = user_line()
                return
            if msg["infer"].get("is_auxiliary"):
                return
            check_shape(name, fn, msg["value"])
            if not marks_of(msg["value"]):
                check_values(name, fn, concrete(msg["value"]), fixed=True, mask=msg["mask"])
        else:
            msg["value"] = _chosen(msg)
            self.dtypes[name] = msg["value"].dtype
            if not is_one(msg["scale"]) or weighs(fn):
                self.scaled.add(name)
            self.values[name] = msg["value"]
            if lists_values(fn):
                self.points.add(name)
        site = Site(space_of(fn), bool(msg["is_observed"]), self.plates[name], user_line())
        if not site.observed:
            site = self._latent(name, site, msg)
        self.sites[name] = site

    def _latent(self, name: str, site: Site, msg: Message) -> Site:
        """The site, with what a guide says of it: marked as auxiliary, or a single value."""
        site = replace(site, auxiliary=bool(msg["infer"].get("is_auxiliary")))
        if name not in self.points or not site.space.smooth:
            return site
        image = any(p in self.sites and self.sites[p].auxiliary for p in self.ancestors(name))
        return replace(site, law="image" if image else "point", value=single_value(msg["fn"]))

    def _subsample(self, msg: Message) -> None:
        fn = msg["fn"]
        known, line = self.sizes.setdefault(msg["name"], (fn.size, user_line()))
        if known != fn.size or fn.size < 0:
            what = f"the plate has size {fn.size}"
            what += f" here and {known} at {line}" if known != fn.size else ", which is no size"
            hint = "give the plates different names, or one size"
            raise ProgramError(located(what, site=msg["name"], hint=hint))
        if msg["value"] is not None and len(msg["value"]) < fn.size:
            self.given_parts[msg["name"]] = len(msg["value"])
        size = getattr(fn, "subsample_size", getattr(fn, "k", None))
        if msg["value"] is None and size is not None and size < fn.size:
            self.subsampled[msg["name"]] = f"{size} of {fn.size} indices", user_line()
            indices = torch.arange(size, device=getattr(fn, "device", None))
            msg["value"] = indices.expand(*getattr(fn, "batch_shape", ()), size)

    def look(self, value: Any) -> Found:
        """What the run knows of a tensor of an argument or a result."""
        sites = ((name, self.sites[name]) for name, own in self.values.items() if own is value)
        return Found(torch.as_tensor(concrete(value)), next(sites, None), not dependence(value))

    def ancestors(self, name: str) -> set[str]:
        """The choices that a site depends on, directly or through others."""
        found: set[str] = set()
        pending = set(self.parents[name])
        while pending:
            at = pending.pop()
            found.add(at)
            pending |= self.parents.get(at, frozenset()) - found
        return found


# -------------------------------------------------------------------------------------------- lanes


@dataclass
class Hidden:
    """What a site inside lanes depends on, and the marks that its value gets outside.

    ``taken``: whether its branch is, on which it depends if it becomes an observation.
    """

    depends: Marks = frozenset()
    taken: Marks = frozenset()
    marks: Marks = frozenset()


def _chosen(msg: Message, others: Marks = frozenset()) -> Any:
    """The abstract value of a choice, marked by it and by others."""
    marks = others | {Mark(msg["name"], space_of(msg["fn"]).smooth)}
    _hidden(msg).marks = marks
    return abstract(placeholder(msg["fn"]), marks)


def _hidden(msg: Message) -> Hidden:
    found: Hidden = msg["infer"].get("hidden") or Hidden()
    return found


class Inside(Messenger):  # type: ignore[misc]
    """Stands inside lanes, whose edge only plain tensors can cross, and keeps the marks."""

    def __init__(self, look: Look) -> None:
        super().__init__()
        self.look = look

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and not is_subsample(msg):
            hidden = msg["infer"].setdefault("hidden", Hidden())  # of the lanes within, if any
            data = msg["value"] if msg["is_observed"] else None
            hidden.taken |= marks_of(msg["infer"].get("taken"))
            hidden.depends |= marks_on(msg["fn"]) | marks_of((data, msg["mask"], taken_by(msg)))
            msg["infer"].pop("taken", None)  # it is abstract, and cannot leave
            leaves, spec = flatten(msg["fn"])
            msg["fn"] = rebuild(spec, concrete(leaves))
            msg["value"], msg["mask"] = concrete(msg["value"]), concrete(msg["mask"])
        elif msg["type"] == "vmap":
            msg["fn"] = through_lanes(msg["infer"]["lanes"], self.look)
        elif msg["type"] == "call" and "program" in msg["infer"]:
            msg["fn"] = held_call(msg, self.look)
        elif msg["type"] == "normalize":
            msg["fn"] = functools.partial(Query, msg["infer"]["query"])

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            msg["value"] = abstract(msg["value"], _hidden(msg).marks)


def through_lanes(lanes: Lanes, look: Look) -> Callback:
    """The lanes of ``vmap``, with marked values inside and out."""

    def run(*args: Any) -> Any:
        marks = [marks_of(arg) for arg in args]
        found: list[Marks] = []

        def lane(*inner: Any) -> Any:
            with Inside(look):
                value = lanes.fn(
                    *(
                        tree_map(lambda x, m=mark: abstract(x, m), arg)
                        for arg, mark in zip(inner, marks, strict=True)
                    )
                )
            found[:] = [marks_of(leaf) for leaf in tree_leaves(value)]
            return concrete(value)

        result = run_batched(lane, concrete(args), lanes.mapped, lanes.size)
        leaves, spec = tree_flatten(result)
        return tree_unflatten(map(abstract, leaves, found), spec)

    return run


_MADE_OF_OTHERS = (torch.distributions.Distribution, torch.distributions.Transform)


def marks_on(distribution: Any) -> Marks:
    """The marks of the parameters of a distribution."""
    found: Marks = frozenset()
    pending, seen = [distribution], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue  # a transform and its inverse know each other
        seen.add(id(node))
        for value in vars(node).values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(part, _MADE_OF_OTHERS):
                    pending.append(part)
                else:
                    found |= marks_of(part)
    return found


def placeholder(distribution: Any) -> Tensor:
    """A value of the right shape and dtype inside the support, without sampling."""
    if marks_on(distribution):  # a support may move with the choices: take that of placeholders
        leaves, spec = flatten(distribution)
        distribution = rebuild(spec, concrete(leaves))
    return inner_point(distribution).clone()


def single_value(distribution: Any) -> Tensor | None:
    """The value of a ``Delta``, of shape batch + event; None for other laws."""
    shape = distribution.batch_shape + distribution.event_shape
    while isinstance(distribution, torch.distributions.Independent | pyro_dist.MaskedDistribution):
        distribution = distribution.base_dist
    if not isinstance(distribution, pyro_dist.Delta):
        return None
    value: Tensor = concrete(distribution.v)
    return value.detach().expand(shape)


class Query:
    """A normalised measure of which only the type is known."""

    def __init__(self, p: Callback, *args: Any) -> None:
        self.p, self.args = p, args

    def draw(self) -> Any:
        value, log_weight = untraced(weighted(self.p))(*self.args)
        return tree_map(lambda leaf: abstract(leaf, marks_of(log_weight)), value)


def held_call(msg: Message, look: Look) -> Callback:
    """The call of a program, held to its annotations."""
    return functools.partial(held(msg["infer"]["program"], look), **msg["fn"].keywords)


def abstract_run(p: Callback, *args: Any, **kwargs: Any) -> tuple[AbstractRun, Any]:
    """Run a program on abstract choices; return what it did and its abstract result.

    The program, and those that it calls, are held to their annotations (``ppl.types.annotations``).
    A result that is the value of a site has the space of the site; otherwise the run knows shapes
    and dtypes only, so that a declared ``Positive`` may be any floating tensor of its shape.

    Errors:
        AnnotationError: arguments, result or law of a program are not as declared.
        BranchError: Python control flow depends on a random value.
        DuplicateNameError, DataError, ProgramError: names, data, plates or parameters are wrong.
    """
    args = as_arguments(args)
    run, store = AbstractRun(), pyro.get_param_store()
    plain = not isinstance(unconditioned(p), Program)  # whose call is no message
    entry = held(p, run.look, law=not isinstance(p, Program)) if plain else p
    outer = [*WRITTEN], {*ARGUMENTS}  # of the run that this one is part of
    WRITTEN.clear()
    ARGUMENTS.update(storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    devices = range(torch.cuda.device_count())
    parameters = store.scope(store.get_state())
    random = torch.random.fork_rng(devices)
    decomposing = Decomposing(abstract=True)
    with no_validation(), checked(), implemented(), random, parameters as state, decomposing, run:
        try:
            with one_precision(args):
                value = entry(*args, **kwargs)
        except RecursionError as error:
            raise BranchError(
                located(f"{program_name(p)} recurses without end on abstract choices")
            ) from error
        finally:
            run.writes = bool(WRITTEN)
            for tensor in WRITTEN:
                tensor.__class__ = Tensor
            WRITTEN[:] = outer[0]
            ARGUMENTS.intersection_update(outer[1])
    run.parameters = state
    run.coverage.require_complete(list(run.sites))
    return run, value


UNTYPED = (
    BranchError,
    DuplicateNameError,
    ImpureProgramError,
    NoDensityError,
    UnsupportedDistributionError,
)


def check_program(p: Callback, *args: Any) -> None:
    """Raise what ``abstract_run`` finds wrong; a program that has no type may pass unchecked.

    Such are those whose control flow is random, and those whose branches share names.  Of these it
    is seen whether data go on beyond the loops of some runs.
    """
    with Hearing() as hearing:
        if has_type(p, *args) or not hearing.coverage.given:
            return
        random = torch.random.fork_rng(range(torch.cuda.device_count()))
        with suppress(ProgramError, RuntimeError), Sealed(), torch.no_grad(), random:
            p(*args)
            for _ in range(0 if hearing.coverage.within else OTHER_RUNS):
                p(*args)
    hearing.coverage.require_within()


OTHER_RUNS = 20  # which may take branches where loops are longer
_JUDGED = Bookkeeping()  # programs with data that some of their paths leave out, and that are right


def require_known(p: Callback, args: tuple[Any, ...], coverage: Coverage) -> None:
    """Raise if a program is conditioned on what it has not, whatever its choices are.

    ``coverage``: of one run.  What it has not met other paths may meet, if the program has several.
    """
    if coverage.complete or (key := fingerprint((p, args))) in _JUDGED:
        return
    check_program(p, *args)
    _JUDGED.add(key)


def unless_impossible(p: Callback, args: tuple[Any, ...], run: Callable[[], T]) -> T:
    """What ``run`` returns; a value outside its support is an error unless a choice moves it.

    Errors:
        SupportError: no choice does, or the program has no type that could tell.
    """
    randomness = torch.get_rng_state()
    try:
        return run()
    except SupportError:
        if not has_type(p, *args):
            raise
    torch.set_rng_state(randomness)  # the same run, not another one
    with impossible_data():
        return run()


def has_type(p: Callback, *args: Any) -> bool:
    """Whether the runs of a program differ in their values only, so that lanes can follow them."""
    try:
        with Sealed():
            abstract_run(p, *args)
    except UNTYPED:
        return False
    return True


@answers("type")
def program_type(p: Callback, *args: Any, **kwargs: Any) -> ProgramType:
    """The type of ``p(*args)``: trace type and result, ``P``, or ``M`` if anything is scored.

    A latent under a scale stands for a power of its density, whose mass is not one: that scores.

    A declared result is printed as it is written.

    Errors:
        PushforwardError: as by ``abstract_run``.
    """
    run, value = abstract_run(p, *args, **kwargs)
    declared = declaration(p)
    arguments = tuple(space_of_value(concrete(arg)) for arg in as_arguments(args))
    found, trace = space_of_value(concrete(value)), TraceType(run.sites)
    shown = declared.shown if declared is not None else None
    return ProgramType(arguments, trace, found, not (run.scores or run.scaled), shown)


def trace_type(p: Callback, *args: Any, **kwargs: Any) -> TraceType:
    """The trace type of ``p(*args)``: its named sites with their spaces."""
    return program_type(p, *args, **kwargs).trace
