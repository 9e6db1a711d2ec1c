"""How scale and mixture had best be shared between a mode's functions and the core.

Entries stay as they are where functions u become G u, and the core's unfolding W becomes G^-T W.
Of H = G^T G the bound then has (v log det H - tr(A H) - tr(B / H)) / 2, as far as the functions are
told by the data: A is their roughness, B = E[W W^T], v the numbers that data tell of a function,
less those of the core for it.  Each proposal is the best H of its kind, within MOST.

Source: Luttinen, Ilin, Transformations in variational Bayesian factor analysis to speed up learning
(Neurocomputing 73, 2010), for vectors; for functions it is worked out here.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOST = 8.0  # times larger or smaller


def scaled(A: Tensor, B: Tensor, v: Tensor) -> Tensor:
    """G [R, R], diagonal, for A and B [R, R] and v [R]: a h^2 = v h + b for each function."""
    a, b = A.diagonal(), B.diagonal()
    return (_root(v, a * b) / a).sqrt().clamp(1 / MOST, MOST).diag()


def mixed(A: Tensor, B: Tensor, v: Tensor) -> Tensor:
    """G [R, R], symmetric, with the mean of v for all: H A H = v H + B."""
    values, vectors = torch.linalg.eigh(A)
    root, back = ((vectors * values**e) @ vectors.mT for e in (0.5, -0.5))
    values, vectors = torch.linalg.eigh(root @ B @ root)
    H = back @ (vectors * _root(v.mean(), values)) @ vectors.mT @ back
    values, vectors = torch.linalg.eigh(H)
    found: Tensor = (vectors * values.clamp(MOST**-2, MOST**2).sqrt()) @ vectors.mT
    return found


def _root(v: Tensor, c: Tensor) -> Tensor:
    """The positive x with x^2 = v x + c, for c > 0 and any v."""
    s = (v**2 + 4 * c).sqrt()
    return torch.where(v > 0, (s + v) / 2, 2 * c / (s - v))
