"""The abstract run: a program's type and dependence, without sampling.

Arguments and data keep their values, so control flow on them works.  Only sampled values are
abstract: tensors of the right shape and dtype that remember which choices they depend on.  A
program that looks at one of them (branches, counts or indexes by it in Python) is refused with the
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import distributions as pyro_dist
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from .annotations import Found, bound_arguments, declaration
from .batching import run_batched
from .combinators import Conditioned, Lanes
from .data import as_arguments, value_dtype
from .effects import Message, is_deterministic, is_draw, is_subsample
from .errors import (
    BranchError,
    DuplicateNameError,
    ImpureProgramError,
    implemented,
    located,
    user_line,
)
from .families import flatten, rebuild
from .interpret import no_validation
from .program import Callback, program_name
from .support import lists_values
from .types import ProgramType, Site, TraceType, space_of, space_of_value
from .unconstrain import bijection
from .validate import check_parameters, check_shape, check_values

_LOOKS = {
    getattr(Tensor, name)
    for name in (
        "__bool__",
        "__float__",
        "__int__",
        "__index__",
        "__contains__",
        "item",
        "tolist",
        "numpy",
        "__array__",
    )
    if hasattr(Tensor, name)
} | {torch.equal, torch.allclose, Tensor.equal, Tensor.allclose}


class Abstract(Tensor):
    """A tensor whose values mean nothing; ``depends`` names the choices that they come from.

    A choice depends on itself only: what its law depends on are its parents.
    """

    depends: frozenset[str]

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        depends = dependence((args, kwargs))
        if func in _LOOKS and depends:
            raise BranchError(
                located(
                    f"Python looks at a random value (it depends on {_listed(depends)})",
                    hint="use cond(...) or torch.where; replay interpretations can still run it",
                )
            )
        if _in_place(func) and depends:
            _require_own(args[0])
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **kwargs)
        if func is torch.broadcast_tensors:  # each result depends on its own argument only
            given = args[0] if isinstance(args[0], list | tuple) else args
            return tuple(abstract(r, dependence(a)) for r, a in zip(result, given, strict=True))
        if _in_place(func) and args and isinstance(args[0], Tensor):
            _written(args[0], depends)
            return result
        return tree_map(lambda leaf: abstract(leaf, depends), result)

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"<abstract {tuple(self.shape)} of {_listed(dependence(self))}>"


def _in_place(func: Any) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)) or "no choice"


def abstract(value: Any, depends: frozenset[str]) -> Any:
    """The tensor, marked as depending on the named choices; anything else as it is."""
    if not isinstance(value, Tensor) or not depends:
        return value
    with torch._C.DisableTorchFunctionSubclass():
        marked = value.as_subclass(Abstract)
    marked.depends = depends | getattr(value, "depends", frozenset())
    return marked


def _written(target: Tensor, depends: frozenset[str]) -> Tensor:
    """Mark a tensor that was written in place; ``AbstractRun`` unmarks it at the end."""
    if depends:
        if type(target) is Tensor:
            _WRITTEN.append(target)
            target.__class__ = Abstract
        target.depends = depends | getattr(target, "depends", frozenset())  # type: ignore[attr-defined]
    return target


def _require_own(target: Any) -> None:
    """Raise before a placeholder would overwrite the data of an argument."""
    if isinstance(target, Tensor) and _storage(target) in _ARGUMENTS - {0}:
        raise ImpureProgramError(
            located(
                "a random value is written in place into an argument of the program",
                hint="write into a copy: y = y.clone()",
            )
        )


def _storage(tensor: Tensor) -> int:
    """The address of the data of a tensor; 0 if it has none (lanes, meta and empty tensors)."""
    try:
        return int(concrete(tensor).untyped_storage().data_ptr())
    except (RuntimeError, NotImplementedError):
        return 0


_WRITTEN: list[Tensor] = []
_ARGUMENTS: set[int] = set()  # the storages of the arguments of the program that is run


def dependence(tree: Any) -> frozenset[str]:
    """The choices that the tensors of a tree depend on."""
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Abstract))
    return frozenset().union(*(getattr(leaf, "depends", frozenset()) for leaf in leaves))


def concrete(tree: Any) -> Any:
    """The same tree with its abstract tensors as plain placeholders."""
    return tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, Abstract) else x, tree)


class AbstractRun(Messenger):  # type: ignore[misc]
    """Collects the sites of a program while it runs on abstract choices.

    ``subsampled``: plates that draw their indices: how many, and where; the run takes the first.
    ``parameters``: the state of Pyro's parameter store after the run; the store is as it was.
    ``writes``: whether a random value is written in place into a tensor.
    """

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}
        self.parents: dict[str, frozenset[str]] = {}  # of every site: the choices that it looks at
        self.derived: dict[str, str] = {}  # deterministic sites, and their lines
        self.dtypes: dict[str, torch.dtype] = {}
        self.values: dict[str, Tensor] = {}  # the placeholders of the latents
        self.subsampled: dict[str, tuple[str, str]] = {}
        self.parameters: Any = {"params": {}, "constraints": {}}
        self.points: set[str] = set()  # latents whose law is carried by single values
        self.scores: dict[str, str] = {}  # observations and factors, and their lines
        self.draws, self.writes = 0, False
        self.draw_line: str | None = None

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "cond" and dependence(msg["args"][0]):
            msg["fn"] = msg["infer"]["branches"].run_all
        elif msg["type"] == "vmap":
            msg["fn"] = through_lanes(msg["infer"]["lanes"])

    def _sample(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        if is_subsample(msg):
            self._subsample(msg)
            return
        if is_draw(msg):
            self.draws += 1
            self.draw_line = self.draw_line or user_line()
            msg["value"] = self._chosen(msg)
            return
        if name in self.sites:
            raise DuplicateNameError(
                located(
                    f"the name is used twice (first at {self.sites[name].line})",
                    site=name,
                    hint="rename one of the sites",
                )
            )
        if is_deterministic(msg):
            self.parents[name], self.derived[name] = dependence(msg["value"]), user_line()
            return
        check_parameters(name, fn)
        self.parents[name] = depends_on(fn) | _hidden(msg).depends
        if msg["is_observed"]:
            self.scores[name] = user_line()
            if msg["infer"].get("is_auxiliary"):
                return
            check_shape(name, fn, msg["value"])
            check_values(name, fn, concrete(msg["value"]), fixed=True)
        else:
            msg["value"] = self._chosen(msg)
            self.dtypes[name] = msg["value"].dtype
            self.values[name] = msg["value"]
            if lists_values(fn):
                self.points.add(name)
        plates = tuple(frame.name for frame in msg["cond_indep_stack"])
        site = Site(space_of(fn), bool(msg["is_observed"]), plates, user_line())
        if not site.observed:
            site = self._latent(name, site, msg)
        self.sites[name] = site

    def _chosen(self, msg: Message) -> Any:
        """The abstract value of a choice."""
        _hidden(msg).name = msg["name"]
        return abstract(placeholder(msg["fn"]), frozenset({msg["name"]}))

    def _latent(self, name: str, site: Site, msg: Message) -> Site:
        """The site, with what a guide says of it: marked as auxiliary, or a single value."""
        site = replace(site, auxiliary=bool(msg["infer"].get("is_auxiliary")))
        if name not in self.points or not site.space.smooth:
            return site
        image = any(p in self.sites and self.sites[p].auxiliary for p in self.ancestors(name))
        return replace(site, law="image" if image else "point", value=single_value(msg["fn"]))

    def _subsample(self, msg: Message) -> None:
        fn = msg["fn"]
        size = getattr(fn, "subsample_size", getattr(fn, "k", None))
        if msg["value"] is None and size is not None and size < fn.size:
            self.subsampled[msg["name"]] = f"{size} of {fn.size} indices", user_line()
            indices = torch.arange(size, device=getattr(fn, "device", None))
            msg["value"] = indices.expand(*getattr(fn, "batch_shape", ()), size)

    def look(self, value: Any) -> Found:
        """What the run knows of a tensor of the result."""
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
    """What a site inside lanes depends on, and the name that it has outside."""

    depends: frozenset[str] = frozenset()
    name: str = ""


def _hidden(msg: Message) -> Hidden:
    found: Hidden = msg["infer"].get("hidden") or Hidden()
    return found


class Inside(Messenger):  # type: ignore[misc]
    """Stands inside lanes, whose edge only plain tensors can cross, and keeps the marks."""

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and not is_subsample(msg):
            msg["infer"]["hidden"] = Hidden(depends_on(msg["fn"]))
            leaves, spec = flatten(msg["fn"])
            msg["fn"] = rebuild(spec, concrete(leaves))
        elif msg["type"] == "vmap":
            msg["fn"] = through_lanes(msg["infer"]["lanes"])

    def _postprocess_message(self, msg: Message) -> None:
        if msg["type"] == "sample" and (name := _hidden(msg).name):
            msg["value"] = abstract(msg["value"], frozenset({name}))


def through_lanes(lanes: Lanes) -> Callback:
    """The lanes of ``vmap``, with marked values inside and out."""

    def run(*args: Any) -> Any:
        marks = [dependence(arg) for arg in args]
        found: list[frozenset[str]] = []

        def lane(*inner: Any) -> Any:
            with Inside():
                value = lanes.fn(
                    *(
                        tree_map(lambda x, m=mark: abstract(x, m), arg)
                        for arg, mark in zip(inner, marks, strict=True)
                    )
                )
            found[:] = [dependence(leaf) for leaf in tree_leaves(value)]
            return concrete(value)

        result = run_batched(lane, concrete(args), lanes.mapped, lanes.size)
        leaves, spec = tree_flatten(result)
        return tree_unflatten(map(abstract, leaves, found), spec)

    return run


_MADE_OF_OTHERS = (torch.distributions.Distribution, torch.distributions.Transform)


def depends_on(distribution: Any) -> frozenset[str]:
    """The choices that the parameters of a distribution depend on."""
    found: frozenset[str] = frozenset()
    pending, seen = [distribution], set()
    while pending:
        node = pending.pop()
        if id(node) in seen:
            continue  # a transform and its inverse know each other
        seen.add(id(node))
        for value in vars(node).values():
            for part in value if isinstance(value, list | tuple) else [value]:
                if isinstance(
                    part, torch.distributions.Distribution | torch.distributions.Transform
                ):
                    pending.append(part)
                else:
                    found |= dependence(part)
    return found


def placeholder(distribution: Any) -> Tensor:
    """A value of the right shape and dtype inside the support, without sampling."""
    if depends_on(distribution):  # a support may move with the choices: take that of placeholders
        leaves, spec = flatten(distribution)
        distribution = rebuild(spec, concrete(leaves))
    shape = distribution.batch_shape + distribution.event_shape
    dtype = value_dtype(distribution)
    if getattr(distribution, "has_enumerate_support", False):
        first: Tensor = concrete(distribution.enumerate_support(expand=False))[0]
        return first.expand(shape).clone()
    support = space_of(distribution).constraint
    if support.is_discrete:
        low = concrete(getattr(support, "lower_bound", 0))
        return torch.as_tensor(low, dtype=dtype).expand(shape).clone()
    transform = bijection(support)
    free = torch.zeros(transform.inverse_shape(shape), dtype=dtype)
    value: Tensor = concrete(transform(free))
    return value.expand(shape).clone()


def single_value(distribution: Any) -> Tensor | None:
    """The value of a ``Delta``, of shape batch + event; None for other laws."""
    shape = distribution.batch_shape + distribution.event_shape
    while isinstance(distribution, torch.distributions.Independent | pyro_dist.MaskedDistribution):
        distribution = distribution.base_dist
    if not isinstance(distribution, pyro_dist.Delta):
        return None
    value: Tensor = concrete(distribution.v)
    return value.detach().expand(shape)


def abstract_run(p: Callback, *args: Any, **kwargs: Any) -> tuple[AbstractRun, Any]:
    """Run a program on abstract choices; return what it did and its abstract result."""
    run, store = AbstractRun(), pyro.get_param_store()
    outer = [*_WRITTEN], {*_ARGUMENTS}  # of the run that this one is part of
    _WRITTEN.clear()
    _ARGUMENTS.update(_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor))
    devices = range(torch.cuda.device_count())
    parameters = store.scope(store.get_state())
    random = torch.random.fork_rng(devices)
    with no_validation(), implemented(), random, parameters as state, run:
        try:
            value = p(*args, **kwargs)
        except RecursionError as error:
            raise BranchError(
                located(f"{program_name(p)} recurses without end on abstract choices")
            ) from error
        finally:
            run.writes = bool(_WRITTEN)
            for tensor in _WRITTEN:
                tensor.__class__ = Tensor
            _WRITTEN[:] = outer[0]
            _ARGUMENTS.intersection_update(outer[1])
    run.parameters = state
    if isinstance(p, Conditioned):
        p.require_all_seen(list(run.sites))
    return run, value


def program_type(p: Callback, *args: Any, **kwargs: Any) -> ProgramType:
    """The type of ``p(*args)``: trace type and result, ``P`` unscored or ``M`` scored.

    Annotations by spaces (see ``ppl.annotations``) are checked: arguments by their values, the
    result by what is known of it.  A result that is the value of a site has the space of the site;
    otherwise the run knows shapes and dtypes only, so that a declared ``Positive`` may be any
    floating tensor of its shape.  A declared result is printed as it is written.

    Errors:
        BranchError: Python control flow depends on a random value.
        DuplicateNameError, DataError, ProgramError: names, data or parameters are wrong.
        AnnotationError: the arguments, the result or its law are not as declared.
    """
    args = as_arguments(args)
    declared = declaration(p)
    if declared is not None:
        declared.check_arguments(bound_arguments(p, args, kwargs))
    run, value = abstract_run(p, *args, **kwargs)
    if declared is not None:
        declared.check_result(value, run.look, run.scores)
    arguments = tuple(space_of_value(concrete(arg)) for arg in args)
    found, trace = space_of_value(concrete(value)), TraceType(run.sites)
    shown = declared.shown if declared is not None else None
    return ProgramType(arguments, trace, found, not run.scores, shown)


def trace_type(p: Callback, *args: Any, **kwargs: Any) -> TraceType:
    """The trace type of ``p(*args)``: its named sites with their spaces."""
    return program_type(p, *args, **kwargs).trace
