"""Triangle meshes: spheres, deformations, the cotangent Laplacian and its eigenbasis."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy import linalg, sparse
from scipy.sparse.linalg import eigsh
from torch import Tensor

Array = npt.NDArray[Any]
STEEP = 1e3  # cotangents of slivers are clamped to it
DENSE = 400  # vertices, up to which the whole eigenproblem is solved


class Basis(NamedTuple):
    """Eigenvalues [k], eigenvectors [n, k] with U^T A U = I, and masses of vertices [n]."""

    evals: Tensor
    evecs: Tensor
    mass: Tensor


def icosphere(level: int) -> tuple[Array, Array]:
    """The icosahedron, each face of which is divided into four, ``level`` times, on the sphere."""
    g = (1 + 5**0.5) / 2
    corners = [(-1, g, 0), (1, g, 0), (-1, -g, 0), (1, -g, 0)]
    vertices = np.array([np.roll(c, r) for r in range(3) for c in corners], dtype=np.float64)
    vertices /= np.linalg.norm(vertices[0])
    gaps = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    near = np.isclose(gaps, gaps[gaps > 0].min())
    faces = [
        (i, j, k)
        for i in range(12)
        for j in range(i + 1, 12)
        for k in range(j + 1, 12)
        if near[i, j] and near[j, k] and near[i, k]
    ]
    for _ in range(level):
        middle: dict[tuple[int, int], int] = {}
        points = list(vertices)

        def between(i: int, j: int, points: list[Array] = points, middle: Any = middle) -> int:
            key = (min(i, j), max(i, j))
            if key not in middle:
                middle[key] = len(points)
                point = points[i] + points[j]
                points.append(point / np.linalg.norm(point))
            return int(middle[key])

        finer = []
        for i, j, k in faces:
            a, b, c = between(i, j), between(j, k), between(k, i)
            finer += [(i, a, c), (a, j, b), (c, b, k), (a, b, c)]
        vertices, faces = np.array(points), finer
    return vertices, np.array(faces)


def deform(vertices: Array, amplitude: float, rng: np.random.Generator) -> Array:
    """The vertices [n, 3], moved by a smooth random field of that root mean square size.

    The field is a sum of four plane waves of random direction and phase, whose wave vectors are
    standard normal; the source leaves it open.
    """
    waves, phases = rng.standard_normal((4, 3)), rng.uniform(0, 2 * np.pi, 4)
    push = rng.standard_normal((4, 3)) / np.sqrt(6)  # three directions, and mean square 1/2
    moved: Array = vertices + amplitude * np.sin(vertices @ waves.T + phases) @ push
    return moved


def unit(vertices: Array, faces: Array) -> Array:
    """The mesh, centred (by area) and scaled to area one."""
    areas = _areas(vertices, faces)
    centre = areas @ vertices[faces].mean(1) / areas.sum()
    scaled: Array = (vertices - centre) / np.sqrt(areas.sum())
    return scaled


def laplacian(vertices: Any, faces: Any) -> tuple[sparse.csc_array, Array]:
    """Stiffness L [n, n], whose entry of an edge is -(cot a + cot b) / 2, and masses A [n].

    Errors:
        ValueError: a coordinate is not finite; an index is out of range; a vertex is in no face; a
            face has no area; an edge is in more than two faces. The first offender is named.
    """
    vertices, faces = _checked(vertices, faces)
    n, areas = len(vertices), _areas(vertices, faces)
    stiffness = sparse.csc_array((n, n))
    for turn in range(3):
        i, j, k = np.roll(faces, turn, axis=1).T
        u, v = vertices[i] - vertices[k], vertices[j] - vertices[k]
        half = np.clip((u * v).sum(1) / (2 * areas), -STEEP, STEEP) / 2
        rows, columns = np.concatenate([i, j, i, j]), np.concatenate([j, i, i, j])
        entries = np.concatenate([-half, -half, half, half])
        stiffness = stiffness + sparse.csc_array((entries, (rows, columns)), shape=(n, n))
    mass = np.bincount(faces.ravel(), np.repeat(areas / 3, 3), minlength=n)
    return stiffness, mass


def eigenbasis(vertices: Any, faces: Any, k: int) -> Basis:
    """The k lowest solutions of L u = lambda A u.

    Errors:
        ValueError: of ``laplacian``, or k is not below the number of vertices.
    Warns:
        UserWarning: several eigenvalues are zero: the mesh is in several pieces.
    """
    stiffness, mass = laplacian(vertices, faces)
    n = len(mass)
    if not 1 <= k < n:
        raise ValueError(f"k is {k}, and a mesh of {n} vertices has eigenvectors for 1 to {n - 1}")
    if n <= DENSE:
        root = np.sqrt(mass)
        whole = stiffness.toarray() / root[:, None] / root
        evals, evecs = linalg.eigh((whole + whole.T) / 2, subset_by_index=[0, k - 1])
        evecs = evecs / root[:, None]
    else:
        masses = sparse.diags_array(mass).tocsc()
        start = np.random.default_rng(0).standard_normal(n)
        shifted = stiffness + 1e-8 * masses
        evals, evecs = eigsh(shifted.tocsc(), k, masses, sigma=0, v0=start)
        order = np.argsort(evals)
        evals, evecs = evals[order] - 1e-8, evecs[:, order]
    if k > 1 and evals[1] < 1e-9 * max(evals[-1], 1 / mass.sum()):
        warnings.warn("several eigenvalues are zero: the mesh is in several pieces", stacklevel=2)
    return Basis(*(torch.from_numpy(x.copy()) for x in (evals.clip(0), evecs, mass)))


def _areas(vertices: Array, faces: Array) -> Array:
    a, b, c = np.moveaxis(vertices[faces], 1, 0)
    areas: Array = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
    return areas


def _checked(vertices: Any, faces: Any) -> tuple[Array, Array]:
    vertices, faces = np.asarray(vertices, dtype=np.float64), np.asarray(faces)
    if vertices.ndim != 2 or vertices.shape[1] != 3 or faces.ndim != 2 or faces.shape[1] != 3:
        shapes = f"{list(vertices.shape)} and {list(faces.shape)}"
        raise ValueError(f"vertices are [n, 3] and faces [m, 3]; their shapes are {shapes}")
    n = len(vertices)
    edges = np.sort(faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    _none(~np.isfinite(vertices).all(1), "vertex {} is not finite")
    _none(((faces < 0) | (faces >= n)).any(1), f"face {{}} has an index outside 0 to {n - 1}")
    _none(np.bincount(faces.ravel(), minlength=n) == 0, "vertex {} is in no face")
    _none(_areas(vertices, faces) <= 1e-14 * np.ptp(vertices) ** 2, "face {} has no area")
    pairs, counts = np.unique(edges, axis=0, return_counts=True)
    for i, j in pairs[counts > 2][:1]:
        raise ValueError(f"edge {(int(i), int(j))} is in more than two faces: split the mesh there")
    return vertices, faces


def _none(wrong: Array, what: str) -> None:
    if wrong.any():
        raise ValueError(what.format(int(np.argmax(wrong))) + ": mend the mesh")
