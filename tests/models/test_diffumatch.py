"""Functional maps and their diffusion prior: acceptance checks of arXiv 2507.23715."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pushforward import program, sample
from pushforward.models import diffumatch as dm
from pushforward.models.diffumatch import masks, mesh, prior
from pushforward.semantics import check

pytestmark = pytest.mark.usefixtures("double")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def close(found: Any, wanted: Any, within: float) -> None:
    torch.testing.assert_close(torch.as_tensor(found), f(wanted), rtol=0, atol=within)


def ellipsoid(level: int) -> tuple[Any, Any]:
    vertices, faces = mesh.icosphere(level)
    return mesh.unit(vertices * [1, 1.25, 1.6], faces), faces


# --- acceptance -----------------------------------------------------------------------------------


def test_1_tetrahedron() -> None:
    vertices = [[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]
    faces = [[0, 1, 2], [0, 3, 1], [0, 2, 3], [1, 3, 2]]
    stiffness, mass = dm.laplacian(vertices, faces)
    edge, corner = -0.5773502692, 1.7320508076
    close(stiffness.toarray(), np.where(np.eye(4, dtype=bool), corner, edge).tolist(), 1e-10)
    close(mass, [3.4641016151] * 4, 1e-10)
    close(dm.eigenbasis(vertices, faces, 3).evals, [0.0, 2 / 3, 2 / 3], 1e-12)


@pytest.mark.parametrize(
    ("level", "area", "first", "second"),
    [
        (1, 11.6659314, 1.999209, 5.479913),
        (2, 12.3298486, 1.999908, 5.864496),
        (3, 12.5064927, 1.999992, 5.965858),  # by shifts and inverses, without a dense matrix
    ],
)
def test_2_icosphere(level: int, area: float, first: float, second: float) -> None:
    basis = dm.eigenbasis(*mesh.icosphere(level), 9)
    close(basis.mass.sum(), area, 1e-7)
    close(basis.evals, [0.0, *[first] * 3, *[second] * 5], 1e-6)
    product = basis.evecs.mT @ (basis.mass[:, None] * basis.evecs)
    close(product, torch.eye(9).tolist(), 1e-9)


def test_3_resolvent_mask() -> None:
    wanted = [[0, 0.285714, 0.444444], [0.375, 0.009020, 0.004986], [0.5, 0.048246, 0.003096]]
    close(masks.resolvent(f([0, 1, 2]), f([0, 1.5, 2.5])), wanted, 1e-6)


def test_4_solve() -> None:
    a, b = f([[1, 0, 2, 1], [0, 1, 1, -1]]), f([[1, 0.2, 2, 1], [0.1, 1, 1, -1]])
    M = f([[0, 1], [4, 0]])
    close(dm.solve(a, b, M, 0.5), [[0.99, 0.06], [0.013043, 0.995652]], 1e-6)
    close(dm.solve(a, b), [[0.988235, 0.070588], [0.017647, 0.994118]], 1e-6)


def test_5_levels() -> None:
    s = f([0.1, 1, 3])
    skip, out, _ = prior.preconditioning(s, 0.5)
    close(skip, [0.9615384615, 0.2, 0.0270270270], 1e-10)
    close(out, [0.0980580676, 0.4472135955, 0.4931969620], 1e-10)
    close(prior.weight(s, 0.5), [104, 5, 4.1111111111], 1e-10)
    close(prior.vp_level(f([0.5, 1])), [3.4129183091, 152.1669702839], 1e-10)


def test_6_identity() -> None:
    basis = dm.eigenbasis(*ellipsoid(2), 40)
    identity = torch.arange(len(basis.mass))
    C = dm.from_pointmap(basis, basis, identity)
    close(C, torch.eye(40).tolist(), 1e-8)
    wide = dm.zoomout(C[:12, :12], basis, basis, 40)
    assert torch.equal(dm.to_pointmap(wide, basis, basis), identity)
    shuffled = C[torch.randperm(12, generator=torch.Generator().manual_seed(0)), :12]
    lost = dm.to_pointmap(dm.zoomout(shuffled, basis, basis, 40), basis, basis)
    assert not torch.equal(lost, identity)


def test_8_signs_of_eigenvectors() -> None:
    model = dm.SpectralDiffusion(4)
    C = torch.randn(4, 4, generator=torch.Generator().manual_seed(1))
    row, column = f([1, -1, 1, -1]), f([-1, -1, 1, 1])
    mask = masks.diffusion(model, C)
    assert torch.equal(mask, masks.diffusion(model, row[:, None] * C * column))
    assert not torch.equal(mask, masks.diffusion(model, C, mask_input="plain"))
    assert not torch.allclose(mask, masks.diffusion(model, C.mT))
    assert float(mask.min()) == 0


# --- correspondences under rotation ---------------------------------------------------------------


def test_a_permuted_mesh_is_found_again() -> None:
    """Vertices renumbered and a rigid motion: descriptors of signals alone give the map back."""
    rng = np.random.default_rng(3)
    vertices, faces = ellipsoid(2)
    order = rng.permutation(len(vertices))  # vertex i of the second is order[i] of the first
    turn = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    first = dm.eigenbasis(vertices, faces, 30)
    second = dm.eigenbasis(vertices[order] @ turn.T + 1, np.argsort(order)[faces], 30)
    close(second.evals, first.evals.tolist(), 1e-8)
    signals = torch.from_numpy(rng.standard_normal((len(order), 40)))
    a = first.evecs.mT @ (first.mass[:, None] * signals)
    b = second.evecs.mT @ (second.mass[:, None] * signals[order])
    found = dm.to_pointmap(dm.solve(a, b), first, second)
    assert torch.equal(found, torch.from_numpy(order))
    masked = dm.solve(a, b, masks.laplacian(first.evals, second.evals), 1.0)
    assert torch.equal(dm.to_pointmap(masked, first, second), torch.from_numpy(order))


# --- as programs ----------------------------------------------------------------------------------


def instance() -> tuple[Tensor, Tensor, Tensor, float, float]:
    return f([[0.6, 0.2], [0.1, -0.5]]), f([[0.7, -0.2]]), f([[0.8, 1.4]]), 0.9, 0.9


def test_the_solve_is_the_mean_of_a_posterior() -> None:
    """The measure of the algorithm is the model's; with twice mu, or a wrong mask, not."""
    a, b, mask, mu, noise = instance()
    model, algorithm = dm.matching(a, b, mask, mu, noise), dm.posterior(a, b, mask, mu, noise)
    assert str(model.type()) == "{C: Real[1, 2], b: Real[1, 2] observed} -> M Real[1, 2]"
    faults = [(2 * mu, mask), (mu, mask.flip(1))]
    for wrong in (dm.posterior(a, b, M, weight, noise) for weight, M in faults):
        report = check.valid(wrong, model, quadrature=32, tolerance=1e-5)
        assert report.verdict == "fail"
        assert 1e-3 < report.deviation < math.inf
    check.valid(algorithm, model, quadrature=32, tolerance=1e-5).require()


def gaussian(x: Tensor, s: Tensor) -> Tensor:
    """The denoiser of entries that are normal(0, 1)."""
    return x / (1 + s**2)


def estimator(loss: Callable[[Tensor, Tensor], Tensor], s: Tensor) -> Any:
    @program
    def gradient(theta: Tensor) -> Tensor:
        C = theta.detach().reshape(1, 2).requires_grad_()
        return torch.autograd.grad(loss(C, s), C)[0].reshape(2)

    return gradient


def energy(theta: Tensor) -> Tensor:
    """What distillation descends under a standard normal prior, of s = 0.7: in closed form."""
    return 0.49 / 1.49 * theta.square().mean()


def test_distillation_is_unbiased() -> None:
    s, at = f(0.7), f([0.8, -0.5])
    right = estimator(lambda C, s: dm.distilled(gaussian, C, s, batch=1), s)
    check.unbiased(right, energy, at, quadrature=6).require()

    def published(C: Tensor, s: Tensor) -> Tensor:
        target = C.detach() - dm.gradient(gaussian, C, s, batch=1)
        return (C.abs() - target).square().mean()

    faulty = estimator(published, s)  # its target has C signed, which matters below zero
    report = check.unbiased(faulty, energy, at, quadrature=6)
    assert report.verdict == "fail"
    assert report.deviation > 0.1
    check.unbiased(faulty, energy, at.abs(), quadrature=6).require()


def test_sampler_of_a_gaussian() -> None:
    """The flow of normal(0, 1) is x sqrt((1 + t^2) / (1 + s^2)), to the order of Heun's method."""
    x, share = f([1.0, -3.0]), torch.linspace(0, 1, 800)
    levels = torch.cat([(20 ** (1 / 7) + share * (0.002 ** (1 / 7) - 20 ** (1 / 7))) ** 7, f([0])])
    close(prior.heun(gaussian, x, levels), (x / 401**0.5).tolist(), 2e-6)
    wrong = prior.heun(lambda x, s: x / (1 + s), x, levels)
    assert float((wrong - x / 401**0.5).abs().max()) > 1e-3


def test_a_law_with_a_score_only() -> None:
    law = dm.ScoreOnly(dm.SpectralDiffusion(3))

    @program
    def fmap_prior() -> Tensor:
        return sample("C", law)

    assert str(fmap_prior.type()) == "{C: Real[3, 3]} -> P Real[3, 3]"
    assert law.sample((2,)).shape == (2, 3, 3)
    x = torch.rand(3, 3)
    close(law.score(x, 0.5), ((law.model.denoise(x, 0.5) - x) / 0.25).tolist(), 1e-12)
    with pytest.raises(NotImplementedError, match="has a score, and its density is not known"):
        law.log_prob(x)


def test_training_is_the_loss() -> None:
    """The weights of the loss cancel c_out: the network's own error has weight one."""
    model = dm.SpectralDiffusion(2, sigma_data=0.4)
    x, s = torch.rand(5, 2, 2), f([0.1, 0.3, 1, 2, 9])
    noise = torch.randn(5, 2, 2)
    skip, out, scale = (v[:, None] for v in prior.preconditioning(s, 0.4))
    noisy = (x + s[:, None, None] * noise).flatten(1)
    aim = (x.flatten(1) - skip * noisy) / out
    found = model.net(torch.cat([scale * noisy, s.log()[:, None] / 4], 1))
    close(model.loss(x, s, noise).detach(), float((found - aim).square().mean().detach()), 1e-10)


# --- the experiment -------------------------------------------------------------------------------


@pytest.mark.slow
def test_7_experiment() -> None:
    """A prior of deformed ellipsoids: denoising, and matching by noisy descriptors.

    Spec: denoiser at s = 0.1 within 0.004; diffusion mask at mu = 10: error within 0.45, accuracy
    from 0.62, 0.2 above no mask. The Laplacian mask with its best weight wins there, and here.
    """
    rng, k = np.random.default_rng(0), 12
    vertices, faces = ellipsoid(2)
    template = dm.eigenbasis(vertices, faces, k)
    identity = torch.arange(len(vertices))
    shapes, maps = [], []
    for _ in range(160):
        basis = dm.eigenbasis(mesh.unit(moved(vertices, rng), faces), faces, k)
        shapes.append(basis)
        maps.append(dm.from_pointmap(template, basis, identity))
    sizes = torch.stack(maps).abs()
    train, test = sizes[:130], sizes[130:]
    model = dm.SpectralDiffusion(k).fit(train)
    noise = torch.randn(20, *test.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        mse = float((model.denoise(test + 0.1 * noise, 0.1) - test).square().mean())
    print(f"denoising: {mse:.4f}; the mean: {float((test - train.mean(0)).square().mean()):.4f}")
    scores: dict[str, list[tuple[float, float]]] = {}
    for shape, true in zip(shapes[130:142], maps[130:142], strict=True):
        a = torch.from_numpy(rng.standard_normal((k, 15)))
        signal = template.evecs @ a
        seen = signal + signal.std() * torch.from_numpy(rng.standard_normal(signal.shape))
        b = shape.evecs.mT @ (shape.mass[:, None] * seen)
        start = dm.solve(a, b)
        most = max(float(template.evals[-1]), float(shape.evals[-1]))
        plain = masks.laplacian(template.evals / most, shape.evals / most)
        charged = masks.diffusion(model, start)
        tries = {"none": start}
        for mu in (1.0, 10.0, 100.0):
            tries[f"laplacian {mu:g}"] = dm.solve(a, b, plain, mu)
            tries[f"diffusion {mu:g}"] = dm.solve(a, b, charged, mu)
        for name, C in tries.items():
            error = float((C - true).norm() / true.norm())
            hit = float((dm.to_pointmap(C, template, shape) == identity).double().mean())
            scores.setdefault(name, []).append((error, hit))
    means = {name: np.mean(rows, axis=0) for name, rows in scores.items()}
    for name, (error, hit) in means.items():
        print(f"{name}: error {error:.3f}, accuracy {hit:.3f}")
    assert mse <= 0.004
    error, hit = means["diffusion 10"]
    assert error <= 0.45
    assert hit >= 0.62
    assert hit >= means["none"][1] + 0.2


def moved(vertices: Any, rng: np.random.Generator) -> Any:
    return mesh.deform(vertices, 0.25 * float(np.linalg.norm(vertices, axis=1).mean()), rng)


# --- bad inputs -----------------------------------------------------------------------------------

SQUARE = [[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [1, 1, 0.5]]


@pytest.mark.parametrize(
    ("vertices", "faces", "what"),
    [
        ([*SQUARE, [0, 0, 1]], [[0, 1, 2], [0, 1, 3], [0, 1, 4]], r"edge \(0, 1\) is in more than"),
        ([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], "face 0 has no area"),
        (SQUARE, [[0, 1, 2]], "vertex 3 is in no face"),
        (SQUARE, [[0, 1, 2], [1, 2, 4]], "face 1 has an index outside 0 to 3"),
        ([[0, 0, 0], [1, np.nan, 0], [0, 1, 0]], [[0, 1, 2]], "vertex 1 is not finite"),
        ([[0, 0], [1, 0], [0, 1]], [[0, 1, 2]], r"vertices are \[n, 3\]"),
    ],
)
def test_bad_meshes(vertices: Any, faces: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        dm.laplacian(vertices, faces)


def test_bad_inputs() -> None:
    vertices, faces = mesh.icosphere(0)
    basis = dm.eigenbasis(vertices, faces, 5)
    with pytest.raises(ValueError, match="k is 12, and a mesh of 12 vertices"):
        dm.eigenbasis(vertices, faces, 12)
    with pytest.warns(UserWarning, match="several pieces"):
        dm.eigenbasis(
            np.concatenate([vertices, vertices + 5]), np.concatenate([faces, faces + 12]), 3
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dm.eigenbasis(vertices, faces, 3)
    with pytest.raises(torch.linalg.LinAlgError, match="2 descriptors do not determine"):
        dm.solve(torch.rand(3, 2), torch.rand(3, 2))
    with pytest.raises(ValueError, match="descriptors are"):
        dm.solve(torch.rand(3, 4), torch.rand(3, 5))
    with pytest.raises(ValueError, match="the mask has shape"):
        dm.solve(torch.rand(3, 4), torch.rand(3, 4), torch.rand(2, 3), 1.0)
    with pytest.raises(ValueError, match="it must be square"):
        dm.zoomout(torch.rand(3, 4), basis, basis, 5)
    with pytest.raises(ValueError, match="k is 9"):
        dm.zoomout(torch.rand(3, 3), basis, basis, 9)
    with pytest.raises(ValueError, match="for maps of 4 x 4"):
        masks.diffusion(dm.SpectralDiffusion(4), torch.rand(3, 3))
    with pytest.raises(ValueError, match="mask_input"):
        masks.diffusion(dm.SpectralDiffusion(3), torch.rand(3, 3), mask_input="none")
    with pytest.raises(ValueError, match="absolute values"):
        dm.SpectralDiffusion(3).fit(-torch.rand(5, 3, 3))
    with pytest.raises(ValueError, match="noise is"):
        dm.SpectralDiffusion(3, sigma_data=-1.0)


def test_refinement_lowers_its_loss() -> None:
    """From an exact denoiser of ones on the diagonal, noisy descriptors give a map nearer to I."""
    aim, rng = torch.eye(3), torch.Generator().manual_seed(0)
    a = torch.randn(3, 4, generator=rng)
    b = a + 0.5 * torch.randn(3, 4, generator=rng)
    start = dm.solve(a, b)
    found, losses = dm.refined(lambda x, s: aim.expand_as(x), a, b, start, n_loop=200)
    assert len(losses) == 200
    assert float((found - aim).norm()) < 0.7 * float((start - aim).norm())
    alone, _ = dm.refined(lambda x, s: aim.expand_as(x), a, b, start, n_loop=200, w_sds=0.0)
    assert float((alone - start).norm()) < 0.1
