"""Prefixes of an associative operation in logarithmically many steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Element = tuple[Tensor, ...]
Combine = Callable[[Element, Element], Element]


def prefixes(combine: Combine, elements: Element) -> Element:
    """e_0, e_0 e_1, e_0 e_1 e_2, ...: for T elements fewer than 2 T products, in 2 log2(T) calls.

    Args:
        combine: of elements one after the other, the earlier first; many at once.
        elements: tensors [..., T, n, m].
    """
    length = elements[0].shape[-3]
    if length == 1:
        return elements
    even, odd = _every_other(elements, 0), _every_other(elements, 1)
    pairs = combine(_first(even, length // 2), odd)
    after_odd = prefixes(combine, pairs)
    first = _first(even, 1)
    if length == 2:
        return _joined(first, after_odd)
    rest = tuple(x[..., 1:, :, :] for x in even)
    after_even = combine(_first(after_odd, rest[0].shape[-3]), rest)
    return _interleaved(_joined(first, after_even), after_odd)


def _every_other(elements: Element, start: int) -> Element:
    return tuple(x[..., start::2, :, :] for x in elements)


def _first(elements: Element, n: int) -> Element:
    return tuple(x[..., :n, :, :] for x in elements)


def _joined(one: Element, other: Element) -> Element:
    return tuple(torch.cat(pair, -3) for pair in zip(one, other, strict=True))


def _interleaved(even: Element, odd: Element) -> Element:
    """x_0, y_0, x_1, y_1, ...; there may be one x more."""
    n = odd[0].shape[-3]
    found = []
    for x, y in zip(even, odd, strict=True):
        pairs = torch.stack([x[..., :n, :, :], y], -3).flatten(-4, -3)
        found.append(torch.cat([pairs, x[..., n:, :, :]], -3))
    return tuple(found)
