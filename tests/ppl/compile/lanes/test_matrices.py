"""Matrices in lane code: decompositions, solutions and determinants are those of torch."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from pushforward import dist, observe, program, sample, scan
from pushforward.ppl.compile import potential
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes import build, translation
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.compile.lanes.header import header
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture_apart, capture_vector
from pushforward.ppl.tensors.decompositions import OF_BATCHES, Decomposing

pytestmark = pytest.mark.usefixtures("double")

Density = Callable[[Tensor], Tensor]
Use = Callable[[Tensor, Tensor], Tensor]  # of square matrices and right-hand sides

linalg = torch.linalg


def positive(a: Tensor) -> Tensor:
    return a @ a.mT + torch.eye(a.shape[-1])


def lower(a: Tensor) -> Tensor:
    return linalg.cholesky(positive(a))


def upper(a: Tensor) -> Tensor:
    return linalg.cholesky(positive(a), upper=True)


def by_both(parts: tuple[Tensor, Tensor]) -> Tensor:
    return parts[0] * parts[1]


def projections(a: Tensor) -> Tensor:
    """Of eigenvectors only what has no sign."""
    values, vectors = linalg.eigh(positive(a))
    return vectors[..., :, None, :] * vectors[..., None, :, :] * values.log()[..., None, None, :]


def reassembled(a: Tensor) -> Tensor:
    u, values, v = linalg.svd(a, full_matrices=False)
    return u @ (values.square()[..., :, None] * v)


def tall(a: Tensor) -> Tensor:
    return a[..., : (a.shape[-1] + 1) // 2]


USES: dict[str, Use] = {
    "solve": lambda a, b: linalg.solve(a, b),
    "solve from the right": lambda a, b: linalg.solve(a, b.mT, left=False),
    "solve for a vector": lambda a, b: linalg.solve(a, b[..., 0]),
    "solve for one vector": lambda a, b: linalg.solve(a, b.flatten()[: a.shape[-1]]),
    "solve for what is known": lambda a, b: linalg.solve(a, torch.ones(a.shape[-1], 2)),
    "solve by what is known": lambda a, b: linalg.solve(torch.eye(a.shape[-1]).flip(0) + 0.1, b),
    "inverse": lambda a, b: linalg.inv(a),
    "determinant": lambda a, b: linalg.det(a),
    "sign and log determinant": lambda a, b: by_both(linalg.slogdet(a)),
    "log determinant": lambda a, b: torch.logdet(positive(a)),
    "solve by a factor": lambda a, b: torch.cholesky_solve(b, lower(a)),
    "solve by an upper factor": lambda a, b: torch.cholesky_solve(b, upper(a), upper=True),
    "inverse by a factor": lambda a, b: torch.cholesky_inverse(lower(a)),
    "inverse by an upper factor": lambda a, b: torch.cholesky_inverse(upper(a), upper=True),
    "triangle": lambda a, b: linalg.solve_triangular(lower(a), b, upper=False),
    "triangle of one": lambda a, b: linalg.solve_triangular(
        lower(a), torch.ones(a.shape[-1], 1), upper=False
    ),
    "power": lambda a, b: linalg.matrix_power(a, 3),
    "negative power": lambda a, b: linalg.matrix_power(a, -2),
    "factors": lambda a, b: linalg.lu_factor(a)[0],
    "three factors": lambda a, b: torch.cat(linalg.lu(a), -1),
    "solve by factors": lambda a, b: linalg.lu_solve(*linalg.lu_factor(a), b),
    "solve by factors, transposed": lambda a, b: linalg.lu_solve(
        *linalg.lu_factor(a), b, adjoint=True
    ),
    "eigenvalues": lambda a, b: linalg.eigvalsh(a, UPLO="U"),
    "eigenvectors": lambda a, b: projections(a),
    "singular values": lambda a, b: linalg.svdvals(tall(a)),
    "singular vectors": lambda a, b: reassembled(tall(a)),
    "singular vectors of wide ones": lambda a, b: reassembled(tall(a).mT),
}


class Drawn:
    """A use of matrices of some size and batch, and points, drawn by a seed."""

    def __init__(self, name: str, seed: int) -> None:
        r = random.Random(f"{name} {seed}")
        self.use, self.lenient = USES[name], r.random() < 0.5
        self.n, columns, self.batch = r.randint(1, 6), r.randint(1, 3), r.choice(BATCHES)
        lead = r.choice([self.batch, ()]) if "vector" not in name else self.batch
        self.shapes = (*self.batch, self.n, self.n), (*lead, self.n, columns)
        sizes = [torch.Size(shape).numel() for shape in self.shapes]
        generator = torch.Generator().manual_seed(r.randrange(2**30))
        self.sizes = sizes
        self.points = torch.randn(r.randint(3, 5), sum(sizes), generator=generator)

    def __call__(self, u: Tensor) -> Tensor:
        a, b = (x.reshape(s) for x, s in zip(u.split(self.sizes), self.shapes, strict=True))
        with Decomposing() if self.lenient else nullcontext():
            found = self.use(a, b)
        weights = torch.cos(torch.arange(1.0, 1.0 + found.numel())).reshape(found.shape)
        return (weights * found).sum() + found.square().sum()


BATCHES: list[tuple[int, ...]] = [(), (2,), (1,), (3, 2)]


def off(density: Density, u: Tensor) -> float:
    """How far lane code is from torch in any lane, relative to the size of the result."""
    found = LaneFunction(fold(capture_vector(density, u[0])), u)(u)
    errors = []
    for k, row in enumerate(u):
        slope, value = torch.func.grad_and_value(density)(row)
        for exact, lanes in zip((value, slope), found, strict=False):
            errors.append((lanes[k] - exact).abs().max() / exact.abs().max().clamp(min=1.0))
    return float(torch.stack(errors).max())


@pytest.mark.parametrize("name", USES)
def test_values_and_gradients_are_those_of_torch(name: str) -> None:
    drawn = Drawn(name, 0)
    assert off(drawn, drawn.points) < 1e-10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 8))
@pytest.mark.parametrize("name", USES)
def test_and_of_other_sizes(name: str, seed: int) -> None:
    drawn = Drawn(name, seed)
    assert off(drawn, drawn.points) < 1e-10


def results(function: Callable[[Tensor], tuple[Tensor, ...]], u: Tensor) -> tuple[Tensor, ...]:
    """Those of lane code for each row."""
    return LaneFunction(capture_apart(function, u[0]), u)(u)


def test_each_lane_has_the_pivots_of_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(5, 2 * 16, generator=generator)
    u[1] = 0.0  # no row is exchanged, nothing can be divided by

    def both(x: Tensor) -> tuple[Tensor, ...]:
        lu, pivots, info = linalg.lu_factor_ex(x.reshape(2, 4, 4))
        return (*torch.lu_unpack(lu, pivots), pivots, info)

    expected = torch.func.vmap(both)(u)
    assert len(set(map(tuple, expected[3].reshape(10, 4).tolist()))) > 5
    for found, exact in zip(results(both, u), expected, strict=True):
        torch.testing.assert_close(found, exact.double(), rtol=1e-13, atol=1e-13)


# The rows of u are 2 by 2 matrices of which the second is singular, and no other.
ONE_SINGULAR = torch.tensor(
    [[3.0, 1.0, 1.0, 2.0], [1.0, 2.0, 2.0, 4.0], [0.5, 1.0, 1.0, 4.0]], dtype=torch.float64
)


@pytest.mark.parametrize("decomposed", [linalg.lu_factor_ex, linalg.inv_ex, linalg.cholesky_ex])
def test_a_matrix_fails_in_its_lane_alone(decomposed: Callable[..., tuple[Tensor, ...]]) -> None:
    found = results(lambda x: (decomposed(x.reshape(2, 2))[-1],), ONE_SINGULAR)[0]
    assert found.tolist() == [0.0, 2.0, 0.0]
    assert torch.equal(found, decomposed(ONE_SINGULAR.reshape(3, 2, 2))[-1].double())


@pytest.mark.parametrize(
    "use",
    [
        lambda a: linalg.solve(a, torch.ones(2)).sum(),
        lambda a: linalg.solve(a, a.new_zeros(2, 1) + a[0, 0]).sum(),
        lambda a: linalg.inv(a)[0, 0],
        lambda a: linalg.cholesky(a)[0, 0],
        lambda a: linalg.lu_factor(a)[0][0, 0],
    ],
)
def test_where_torch_raises_is_nan_in_that_lane(use: Density) -> None:
    def density(u: Tensor) -> Tensor:
        return use(u.reshape(2, 2))

    value, gradient = LaneFunction(fold(capture_vector(density, ONE_SINGULAR[0])), ONE_SINGULAR)(
        ONE_SINGULAR
    )
    with pytest.raises(RuntimeError, match=r"singular|zero|positive"):
        density(ONE_SINGULAR[1])
    assert value.isnan().tolist() == [False, True, False]
    for k in (0, 2):
        slope, exact = torch.func.grad_and_value(density)(ONE_SINGULAR[k])
        torch.testing.assert_close(value[k], exact, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-12, atol=1e-12)


def test_a_singular_matrix_has_a_determinant_and_its_derivative() -> None:
    """Of rank 3, 2, 1 and 0; the derivative is the adjugate, which is 0 from rank 1 on."""
    rows = [torch.tensor([[2.0, 1, 0], [1, 3, 1], [0, 1, 1]])]
    rows += [torch.tensor([[1.0, 2, 3], [2, 4, 6], [0, 1, -1]]), torch.ones(3, 3)]
    u = torch.stack([*rows, torch.zeros(3, 3)]).reshape(4, 9)
    value, gradient = LaneFunction(fold(capture_vector(_determinant, u[0])), u)(u)
    torch.testing.assert_close(value, linalg.det(u.reshape(4, 3, 3)), rtol=1e-14, atol=1e-14)
    adjugate = torch.stack([_cofactors(row.reshape(3, 3)).flatten() for row in u])
    assert adjugate[1].abs().max() > 1 and adjugate[2:].abs().max() == 0
    torch.testing.assert_close(gradient, adjugate, rtol=1e-13, atol=1e-13)


def _determinant(u: Tensor) -> Tensor:
    return linalg.det(u.reshape(3, 3))


def _cofactors(a: Tensor) -> Tensor:
    """Those of a 3 by 3 matrix: cross products of its rows."""
    return torch.stack([linalg.cross(a[(k + 1) % 3], a[(k + 2) % 3]) for k in range(3)])


def test_a_singular_matrix_has_the_log_determinant_of_torch() -> None:
    sign, log = results(lambda x: tuple(linalg.slogdet(x.reshape(2, 2))), ONE_SINGULAR)
    exact = linalg.slogdet(ONE_SINGULAR.reshape(3, 2, 2))
    assert torch.equal(sign, exact.sign) and exact.sign.tolist() == [1.0, 0.0, 1.0]
    assert log[1] == -torch.inf
    torch.testing.assert_close(log, exact.logabsdet, rtol=1e-14, atol=0.0)


def test_a_matrix_that_is_not_finite_has_no_spectrum_in_its_lane() -> None:
    u = torch.arange(12.0).reshape(3, 4)
    u[1, 2], u[2, 2] = torch.nan, torch.inf

    def spectra(x: Tensor) -> tuple[Tensor, ...]:
        a = x.reshape(2, 2)
        return (*linalg.eigh(a), *linalg.svd(a))

    for found in results(spectra, u):
        assert found[0].isfinite().all() and found[1:].isnan().all()


def two_solved(solved: Callable[[Tensor, Tensor], Tensor]) -> Callable[[], None]:
    def model() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        matrix = torch.stack([torch.stack([x, x]), torch.stack([torch.ones(()), x])])
        mean = solved(matrix, torch.tensor([1.0, 2.0]))
        observe("y", dist.Normal(mean, 1.0).to_event(1), torch.zeros(2))

    return model


@pytest.mark.parametrize("solved", [linalg.solve, lambda a, b: linalg.inv(a) @ b])
def test_a_program_has_no_density_in_the_chain_of_a_singular_matrix(
    solved: Callable[[Tensor, Tensor], Tensor],
) -> None:
    u = torch.tensor([[0.5], [1.0], [-1.5], [0.0]])
    density = LogDensity(two_solved(solved))
    found = Potential(density, u)
    assert found.lanes is not None
    with OF_BATCHES.collected() as failed:
        value, gradient = found(u)
    assert [x.tolist() for x in failed] == [[0.0, 1.0, 0.0, 1.0]]
    assert value.isinf().tolist() == [False, True, False, True]
    traced = Potential(density, u, compiled=False)(u)
    torch.testing.assert_close(value, traced[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient, traced[1], rtol=1e-12, atol=0.0)


@program
def kalman(y: Tensor) -> None:
    """A filter by hand, with the gain by ``solve``."""
    q = sample("q", dist.HalfNormal(1.0))
    turn, one = torch.tensor([[1.0, 0.1], [0.0, 1.0]]), torch.eye(2)

    def step(c: tuple[Tensor, Tensor], now: Tensor) -> tuple[tuple[Tensor, Tensor], None]:
        m, p = turn @ c[0], turn @ c[1] @ turn.T + q * one
        s = p + 0.5 * one
        observe("y", dist.MultivariateNormal(m, s), now)
        gain = linalg.solve(s, p).T
        return (m + gain @ (now - m), p - gain @ p), None

    scan(step)((torch.zeros(2), one), y)


def test_a_filter_that_solves_is_in_lane_code() -> None:
    y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0))
    density, u = LogDensity(kalman, y), torch.linspace(-1.0, 1.0, 3)[:, None]
    found = Potential(density, u)
    assert found.lanes is not None
    for k, (value, gradient) in enumerate(zip(*found(u), strict=True)):
        slope, exact = torch.func.grad_and_value(density)(u[k])
        torch.testing.assert_close(value, exact, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(gradient, slope, rtol=1e-11, atol=0.0)


@pytest.mark.parametrize("name", ["solve", "determinant", "eigenvectors", "singular values"])
def test_in_float32(name: str) -> None:
    def density(u: Tensor) -> Tensor:
        a = u.reshape(3, 3)
        return USES[name](a, a).sum()

    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        u = torch.randn(3, 9, generator=torch.Generator().manual_seed(1))
        assert off(density, u) < 1e-4
    finally:
        torch.set_default_dtype(before)


WRONG = {
    "exchange<n, n>(lu, j, chosen);": "solve",
    "exchange<n, m>(x, j, pivots[j]);": "solve",
    "swap(less, values[i], values[j]);": "eigenvalues",
    "c * x - s * y, y = s * old + c * y;": "singular values",
}


def crippled(text: str) -> str:
    """The header without these words."""
    assert text in header()
    return header().replace(text, "x;" if text.startswith("c ") else "")


@pytest.mark.parametrize("text", WRONG)
def test_what_is_left_out_is_seen(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: without an exchange of rows, the order of values, or a rotation."""
    wrong = crippled(text)
    drawn = next(d for seed in range(20) if (d := Drawn(WRONG[text], seed)).n > 3)
    assert off(drawn, drawn.points) < 1e-10
    monkeypatch.setattr(build, "header", lambda: wrong)
    assert not off(drawn, drawn.points) < 1e-6


def test_lane_code_without_row_exchanges_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = crippled("exchange<n, n>(lu, j, chosen);")
    monkeypatch.setattr(build, "header", lambda: wrong)
    monkeypatch.setattr(potential, "compile_graph", lambda graph, *example, **options: graph)
    u = torch.tensor([[0.5], [-1.5]])
    with pytest.warns(RuntimeWarning, match="disagrees with the traced graph"):
        found = Potential(LogDensity(two_solved(linalg.solve)), u)
    assert found.lanes is None


def test_factors_that_are_asked_for_where_they_are_not_torchs_are_refused() -> None:
    """Of what ``solve`` and determinants have beside their results, torch may keep a transpose."""

    def density(u: Tensor) -> Tensor:
        return torch.ops.aten._linalg_slogdet(u.reshape(2, 2))[2].sum()

    with pytest.raises(translation.Unsupported, match="the factors of"):
        results(lambda u: (density(u),), ONE_SINGULAR)
