"""Graphs of modules that hold unified normalisations, by torch.fx.

A module is traced through where a normalisation stands inside of it; one without, which torch.fx
cannot trace, is a node.  Torch's transformers look at their inputs, and are traced by what they do.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol, runtime_checkable

from torch import fx, nn

from .unified import UnifiedNorm

WHOLE = "whole"


@runtime_checkable
class Reader(Protocol):
    """An attention of which linear maps alone read its inputs, the arguments of these names."""

    inputs: tuple[str, ...]
    forward: Callable[..., Any]

    def input_maps(self) -> tuple[nn.Linear, ...]:
        """All linear maps that read an input; an input that is None is the first."""


def traced(module: nn.Module) -> tuple[fx.Graph, dict[str, nn.Module]]:
    """The graph of a module, and the modules that it names; all names begin with ``whole`` where
    the module is one of torch's transformers."""
    root = _Whole(module) if type(module) in FORWARDS else module
    opaque: set[nn.Module] = set()
    for each in reversed(list(module.modules())):  # what stands inside first
        if not _holds_norms(each) and not _can_be_traced(each, opaque):
            opaque.add(each)
    graph = _Tracer(opaque).trace(root, _defaults(root))
    return graph, dict(root.named_modules(remove_duplicate=False))


def _defaults(module: nn.Module) -> dict[str, Any]:
    """Arguments that need not be given, as masks are: the graph is that without them."""
    parameters = inspect.signature(type(module).forward).parameters.items()
    return {name: p.default for name, p in parameters if p.default is not p.empty}


def _holds_norms(module: nn.Module) -> bool:
    return any(isinstance(each, UnifiedNorm) for each in module.modules())


def _can_be_traced(module: nn.Module, opaque: set[nn.Module]) -> bool:
    tracer = _Tracer(opaque)
    if tracer.is_leaf_module(module, ""):
        return True
    try:
        tracer.trace(module, _defaults(module))
    except Exception:
        return False
    return True


class _Whole(nn.Module):
    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, x: Any) -> Any:
        return self.whole(x, x) if isinstance(self.whole, nn.TransformerDecoder) else self.whole(x)


class _Tracer(fx.Tracer):
    def __init__(self, opaque: set[nn.Module]) -> None:
        super().__init__()
        self.opaque = opaque

    def is_leaf_module(self, module: nn.Module, qualified_name: str) -> bool:
        if isinstance(module, UnifiedNorm | Reader) or module in self.opaque:
            return True
        return super().is_leaf_module(module, qualified_name) and not _holds_norms(module)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        own = FORWARDS.get(type(m))
        return super().call_module(m, forward if own is None else partial(own, m), args, kwargs)


def _encoder_layer(
    layer: Any,
    src: Any,
    src_mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: bool = False,
) -> Any:
    masks = (src_mask, src_key_padding_mask)
    if layer.norm_first:
        x = src + layer._sa_block(layer.norm1(src), *masks, is_causal=is_causal)
        return x + layer._ff_block(layer.norm2(x))
    x = layer.norm1(src + layer._sa_block(src, *masks, is_causal=is_causal))
    return layer.norm2(x + layer._ff_block(x))


def _encoder(
    encoder: Any,
    src: Any,
    mask: Any = None,
    src_key_padding_mask: Any = None,
    is_causal: Any = None,
) -> Any:
    for layer in encoder.layers:
        src = layer(src, src_mask=mask, src_key_padding_mask=src_key_padding_mask)
    return src if encoder.norm is None else encoder.norm(src)


def _decoder(decoder: Any, tgt: Any, memory: Any, *masks: Any, **more: Any) -> Any:
    for layer in decoder.layers:
        tgt = layer(tgt, memory)
    return tgt if decoder.norm is None else decoder.norm(tgt)


FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    nn.TransformerEncoderLayer: _encoder_layer,
    nn.TransformerEncoder: _encoder,
    nn.TransformerDecoder: _decoder,
}
