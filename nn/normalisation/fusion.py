"""Put unified normalisations into the linear maps beside them, for inference.

y = s x + beta with s = gamma / sqrt(variance + eps), so W y + b = (W diag(s)) x + (b + W beta); and
after a linear map, s (W x + b) + beta = (diag(s) W) x + (s b + beta).
"""

from __future__ import annotations

import inspect
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor, fx, nn
from torch.nn.utils import parametrize

from ...kernels.precision import as_given
from ..standing_in import call_children
from .tracing import WHOLE, Reader, traced
from .unified import UnifiedNorm

PASSED = (nn.Identity, nn.Dropout)  # in evaluation


Linear = nn.Linear | nn.MultiheadAttention | Reader


@torch.no_grad()
def fuse_into(norm: UnifiedNorm, *maps: Linear) -> None:
    """Put a normalisation into all the linear maps that read it; it is to be left out from then on.

    An attention is one of the maps if query, key and value are all the normalised input.

    Errors:
        RuntimeError: something is in training mode.
        ValueError: an attention's key or value has another width.
    """
    _require_evaluation(norm, *maps)
    s, beta = norm.scale(), norm.bias.to(norm.running_var.dtype)
    for each in _flat(maps):
        weight, bias = _parameters(each)
        wide = weight.to(s.dtype)
        with as_given(wide.device):
            into_bias = wide @ beta
        weight.copy_(wide * s)
        if bias is not None:
            bias.add_(into_bias)
        elif bool(norm.bias.any()):
            assert isinstance(each, nn.Linear)
            each.bias = nn.Parameter(into_bias.to(weight.dtype))


def _flat(maps: Iterable[Linear]) -> Iterator[nn.Linear | nn.MultiheadAttention]:
    for each in maps:
        if isinstance(each, nn.Linear | nn.MultiheadAttention):
            yield each
        else:
            yield from each.input_maps()


def _parameters(each: nn.Linear | nn.MultiheadAttention) -> tuple[Tensor, Tensor | None]:
    if isinstance(each, nn.Linear):
        return each.weight, each.bias
    if each.in_proj_weight is None or each.in_proj_bias is None or each.bias_k is not None:
        raise ValueError("the attention has several widths, no bias or one for its keys")
    return each.in_proj_weight, each.in_proj_bias


def _require_evaluation(*modules: Any) -> None:
    if any(module.training for module in modules):
        raise RuntimeError("only modules in evaluation mode are fused; call eval() first")


@torch.no_grad()
def _fuse_behind(norm: UnifiedNorm, before: nn.Linear) -> None:
    s, beta = norm.scale(), norm.bias.to(norm.running_var.dtype)
    before.weight.copy_(before.weight.to(s.dtype) * s[:, None])
    moved = beta if before.bias is None else before.bias.to(s.dtype) * s + beta
    before.bias = nn.Parameter(moved.to(before.weight.dtype))


def fuse_unified_norm(module: nn.Module) -> nn.Module:
    """Replace unified normalisations by identities, and change the linear maps beside them.

    A normalisation that only linear maps (or self-attentions, torch's or ours) read goes into them;
    else, one that alone reads a linear map goes into that.  The others stay, and a warning lists
    them: a residual connection that reads the normalised value, for instance, does not allow it.
    The module is changed and returned.  Which reads which is found by ``torch.fx``, for a call with
    nothing but its first arguments; a module that it cannot trace needs :func:`fuse_into`.

    Errors:
        RuntimeError: the module is in training mode.
        ValueError: torch.fx cannot trace the module.
    """
    _require_evaluation(module)
    try:
        graph, modules = traced(module)
    except Exception as error:
        what = f"torch.fx cannot trace {type(module).__name__} ({error}); use fuse_into"
        raise ValueError(what) from error
    calls: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(id(modules[str(node.target)]), []).append(node)
    owners = Counter(id(p) for _, p in module.named_parameters(remove_duplicate=False))
    left = []
    for name, norm in list(modules.items()):
        if not isinstance(norm, UnifiedNorm):
            continue
        if not _fused(norm, calls, modules, owners):
            left.append(name.removeprefix(f"{WHOLE}."))
            continue
        parent, _, leaf = name.rpartition(".")
        setattr(modules[parent], leaf, nn.Identity())
    call_children(module)
    if left:
        warnings.warn(f"not fused: {', '.join(left)}", stacklevel=2)
    return module


def _fused(
    norm: UnifiedNorm,
    calls: dict[int, list[fx.Node]],
    modules: dict[str, nn.Module],
    owners: Counter[int],
) -> bool:
    """Whether the normalisation could be put into its neighbours, which then has been done."""
    own = calls.get(id(norm), [])
    if len(own) != 1 or len(own[0].args) != 1 or own[0].kwargs:
        return False

    def called(node: Any) -> nn.Module | None:
        there = isinstance(node, fx.Node) and node.op == "call_module"
        return modules[str(node.target)] if there else None

    def readers(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
        found = []
        for user in node.users:
            passed = isinstance(called(user), PASSED)
            found += readers(user) if passed else [(user, node)]
        return found

    def is_free(target: Any) -> bool:
        """Called once, and no other module has its parameters."""
        shared = any(owners[id(p)] > 1 for p in target.parameters())
        return len(calls[id(target)]) == 1 and not shared

    def takes(user: fx.Node, value: fx.Node) -> bool:
        target = called(user)
        if isinstance(target, nn.MultiheadAttention | Reader):
            return is_free(target) and _is_self(user, value, target)
        return _is_plain(target) and is_free(target)

    reading = readers(own[0])
    if reading and all(takes(*each) for each in reading):
        fuse_into(norm, *(modules[str(user.target)] for user, _ in reading))  # type: ignore[arg-type]
        return True
    source = own[0].args[0]
    before = called(source)
    alone = isinstance(source, fx.Node) and len(source.users) == 1
    if _is_plain(before) and alone and is_free(before):
        _fuse_behind(norm, before)
        return True
    return False


def _is_plain(target: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether a module is W x + b, with a W and a b that can be changed."""
    if not isinstance(target, nn.Linear) or parametrize.is_parametrized(target):
        return False
    return type(target).forward is nn.Linear.forward


def _is_self(user: fx.Node, value: fx.Node, attention: nn.MultiheadAttention | Reader) -> bool:
    """Whether all inputs of an attention are the value, and nothing else is."""
    given = inspect.signature(attention.forward).bind(*user.args, **user.kwargs).arguments
    if isinstance(attention, nn.MultiheadAttention):
        plain = attention.in_proj_bias is not None and attention.bias_k is None
        inputs = [given.pop(name) for name in ("query", "key", "value")]
    else:
        plain = all(_is_plain(each) for each in attention.input_maps())
        first, *others = (given.pop(name, None) for name in attention.inputs)
        inputs = [first, *(first if each is None else each for each in others)]
    return plain and all(x is value for x in inputs) and all(x is not value for x in given.values())
