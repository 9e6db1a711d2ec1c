"""The abstract run: a program's type and dependence, without sampling.

Arguments and data keep their values, so control flow on them works.  Only sampled values are
abstract: tensors of the right shape and dtype that remember which choices they depend on.  A
program that looks at one of them (branches, counts or indexes by it in Python) is refused with the
line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from .combinators import Conditioned
from .data import as_arguments
from .effects import Message, is_deterministic, is_draw, is_subsample
from .errors import (
    BranchError,
    DuplicateNameError,
    ProgramError,
    UnsupportedDistributionError,
    located,
    user_line,
)
from .interpret import no_validation
from .program import Callback, program_name
from .types import ProgramType, Site, TraceType, space_of, space_of_value
from .unconstrain import bijection
from .validate import check_values

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
    """A tensor whose values mean nothing; ``depends`` names the choices that they come from."""

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


_WRITTEN: list[Tensor] = []


def dependence(tree: Any) -> frozenset[str]:
    """The choices that the tensors of a tree depend on."""
    leaves = (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Abstract))
    return frozenset().union(*(getattr(leaf, "depends", frozenset()) for leaf in leaves))


def concrete(tree: Any) -> Any:
    """The same tree with its abstract tensors as plain placeholders."""
    return tree_map(lambda x: x.as_subclass(Tensor) if isinstance(x, Abstract) else x, tree)


class AbstractRun(Messenger):  # type: ignore[misc]
    """Collects the sites of a program while it runs on abstract choices."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: dict[str, Site] = {}
        self.parents: dict[str, frozenset[str]] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self.scored, self.draws = False, 0

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "sample":
            self._sample(msg)
        elif msg["type"] == "cond" and dependence(msg["args"][0]):
            msg["fn"] = msg["infer"]["branches"].run_both
        elif msg["type"] == "vmap":
            msg["fn"] = self._through_lanes(msg["fn"])

    def _sample(self, msg: Message) -> None:
        name, fn = msg["name"], msg["fn"]
        if is_subsample(msg):
            return
        if is_draw(msg):
            self.draws += 1
            msg["value"] = abstract(placeholder(fn), depends_on(fn) | {name})
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
            return
        _check_parameters(name, fn)
        self.parents[name] = depends_on(fn)
        if msg["is_observed"]:
            self.scored = True
            if msg["infer"].get("is_auxiliary"):
                return
            check_values(name, fn, concrete(msg["value"]), fixed=True)
        else:
            msg["value"] = abstract(placeholder(fn), self.parents[name] | {name})
            self.dtypes[name] = msg["value"].dtype
        plates = tuple(frame.name for frame in msg["cond_indep_stack"])
        self.sites[name] = Site(space_of(fn), bool(msg["is_observed"]), plates, user_line())

    def _through_lanes(self, run: Callback) -> Callback:
        """Lanes run on plain placeholders; their results depend on every site inside them."""

        def lanes(*args: Any) -> Any:
            before = set(self.sites)
            result = run(*concrete(args))
            inside = frozenset(self.sites) - before
            depends = dependence(args) | {n for n in inside if not self.sites[n].observed}
            if self.draws:
                depends |= {"draw"}
            return tree_map(lambda x: abstract(x, depends), result)

        return lanes


def depends_on(distribution: Any) -> frozenset[str]:
    """The choices that the parameters of a distribution depend on."""
    found: frozenset[str] = frozenset()
    for value in vars(distribution).values():
        if isinstance(value, torch.distributions.Distribution):
            found |= depends_on(value)
        elif isinstance(value, list | tuple):
            for item in value:
                if isinstance(item, torch.distributions.Transform):
                    found |= depends_on(item)
                else:
                    found |= dependence(item)
        elif isinstance(value, torch.distributions.Transform):
            found |= depends_on(value)
        else:
            found |= dependence(value)
    return found


def placeholder(distribution: Any) -> Tensor:
    """A value of the right shape and dtype inside the support, without sampling."""
    shape = distribution.batch_shape + distribution.event_shape
    dtype = _dtype(distribution)
    if getattr(distribution, "has_enumerate_support", False):
        first: Tensor = concrete(distribution.enumerate_support(expand=False))[0]
        return first.expand(shape).clone()
    support = distribution.support
    if support is None:
        raise UnsupportedDistributionError(
            located(f"{type(distribution).__name__} does not state its support")
        )
    if support.is_discrete:
        low = concrete(getattr(support, "lower_bound", 0))
        return torch.as_tensor(low, dtype=dtype).expand(shape).clone()
    transform = bijection(support)
    free = torch.zeros(transform.inverse_shape(shape), dtype=dtype)
    value: Tensor = concrete(transform(free))
    return value.expand(shape).clone()


def _dtype(distribution: Any) -> torch.dtype:
    pending = [distribution]
    while pending:
        for value in vars(pending.pop()).values():
            if isinstance(value, Tensor) and value.is_floating_point():
                return value.dtype
            if isinstance(value, torch.distributions.Distribution):
                pending.append(value)
    return torch.get_default_dtype()


def _check_parameters(name: str, distribution: Any) -> None:
    """Parameters that are known must satisfy their constraints (validation is off elsewhere)."""
    for parameter, constraint in getattr(distribution, "arg_constraints", {}).items():
        value = vars(distribution).get(parameter)
        if not isinstance(value, Tensor) or isinstance(value, Abstract):
            continue
        try:
            valid = bool(torch.as_tensor(constraint.check(value)).all())
        except (RuntimeError, NotImplementedError, TypeError):
            continue
        if not valid:
            raise ProgramError(
                located(
                    f"parameter {parameter} of {type(distribution).__name__} violates {constraint}",
                    site=name,
                    hint=f"it is {value.flatten()[:3].tolist()}",
                )
            )
    if isinstance(getattr(distribution, "base_dist", None), torch.distributions.Distribution):
        _check_parameters(name, distribution.base_dist)


def abstract_run(p: Callback, *args: Any, **kwargs: Any) -> tuple[AbstractRun, Any]:
    """Run a program on abstract choices; return what it did and its abstract result."""
    run = AbstractRun()
    _WRITTEN.clear()
    devices = range(torch.cuda.device_count())
    with no_validation(), torch.random.fork_rng(devices), pyro.get_param_store().scope(), run:
        try:
            value = p(*args, **kwargs)
        except RecursionError as error:
            raise BranchError(
                located(f"{program_name(p)} recurses without end on abstract choices")
            ) from error
        finally:
            for tensor in _WRITTEN:
                tensor.__class__ = Tensor
    if isinstance(p, Conditioned):
        p.require_all_seen(list(run.sites))
    return run, value


def program_type(p: Callback, *args: Any, **kwargs: Any) -> ProgramType:
    """The type of ``p(*args)``: trace type and result, ``P`` unscored or ``M`` scored.

    Errors:
        BranchError: Python control flow depends on a random value.
        DuplicateNameError, DataError, ProgramError: names, data or parameters are wrong.
    """
    args = as_arguments(args)
    run, value = abstract_run(p, *args, **kwargs)
    arguments = tuple(space_of_value(concrete(arg)) for arg in args)
    trace = TraceType(run.sites)
    return ProgramType(arguments, trace, space_of_value(concrete(value)), not run.scored)


def trace_type(p: Callback, *args: Any, **kwargs: Any) -> TraceType:
    """The trace type of ``p(*args)``: its named sites with their spaces."""
    return program_type(p, *args, **kwargs).trace
