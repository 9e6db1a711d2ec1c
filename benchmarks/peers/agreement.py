"""Whether the peers' log densities are ours, by values and gradients at three points."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from peers.environment import run
from peers.posteriors import POSTERIORS, Array
from peers.programs import built
from pushforward.ppl.interpretations.log_density import LogDensity

NEAR = 1e-8  # relative to the greatest number


def ours(name: str, points: Array) -> tuple[Array, Array]:
    """Values [n] and gradients [n, d] of our log density."""
    p, args = built(name)
    density = LogDensity(p, *args)
    u = torch.tensor(points, requires_grad=True)
    values = torch.stack([density(x) for x in u])
    (gradients,) = torch.autograd.grad(values.sum(), u)
    return values.detach().numpy(), gradients.numpy()


def apart(a: Array, b: Array) -> float:
    return float(abs(a - b).max() / abs(b).max())


def disagreements(python: str, names: Sequence[str], seed: int = 0) -> dict[tuple[str, str], float]:
    """How far apart the densities are that disagree, by posterior and the way they are written."""
    generator = np.random.default_rng(seed)
    points: dict[str, Any] = {
        name: 0.3 * generator.standard_normal((3, POSTERIORS[name].dim)) for name in names
    }
    with tempfile.TemporaryDirectory() as folder:
        given, answered = f"{folder}/points.npz", f"{folder}/values.npz"
        np.savez(given, **points)
        run(python, "peers.values", given, answered, cache=folder)
        theirs = dict(np.load(answered))
    found = {}
    for name in names:
        values, gradients = ours(name, points[name])
        for way in {key.split()[1] for key in theirs}:
            far = max(
                apart(np.diff(theirs[f"{name} {way} value"]), np.diff(values)),
                apart(theirs[f"{name} {way} gradient"], gradients),
            )
            if not far < NEAR:
                found[name, way] = far
    return found
