"""Densities in lane code: any number of chains, both precisions, what is left to Inductor."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.pyro_models import EXAMPLES
from torch import Tensor

from pushforward import dist, marginal, observe, plate, program, sample, scan
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes import build, translation
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture_vector
from pushforward.ppl.tensors.decompositions import OF_BATCHES

pytestmark = pytest.mark.usefixtures("double")

X = torch.linspace(-1.0, 1.0, 30, dtype=torch.float64).reshape(10, 3)
Y = torch.tensor([0.0, 1.0], dtype=torch.float64).repeat(5)


def logistic() -> None:
    w = sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with plate("data", len(Y)):
        observe("y", dist.Bernoulli(logits=X @ w), Y)


def by_hand(w: Tensor) -> tuple[Tensor, Tensor]:
    """The density of ``logistic`` and its gradient, for many w."""
    logits = w @ X.T
    prior = -0.5 * w.square().sum(-1) - 1.5 * math.log(2 * math.pi)
    likelihood = (Y * logits - torch.nn.functional.softplus(logits)).sum(-1)
    return prior + likelihood, (Y - logits.sigmoid()) @ X - w


@pytest.mark.parametrize("chains", [1, 2, 3, 4, 7, 8, 9, 33])
def test_any_number_of_chains(chains: int) -> None:
    u = torch.randn(chains, 3, generator=torch.Generator().manual_seed(chains))
    potential = Potential(LogDensity(logistic), u)
    assert potential.lanes is not None
    for points in (u, u.t().contiguous().t(), torch.cat([u, u + 1.0])):  # other layout, other count
        value, gradient = potential(points)
        exact = by_hand(points)
        torch.testing.assert_close(value, exact[0], rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradient, exact[1], rtol=1e-13, atol=1e-13)


def test_in_float32() -> None:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:

        def model() -> None:
            w = sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            with plate("data", len(Y)):
                observe("y", dist.Bernoulli(logits=X.float() @ w), Y.float())

        u = torch.linspace(-1.0, 1.0, 15).reshape(5, 3)
        potential = Potential(LogDensity(model), u)
        value, gradient = potential(u)
    finally:
        torch.set_default_dtype(before)
    assert potential.lanes is not None
    assert value.dtype == gradient.dtype == torch.float32
    exact = by_hand(u.double())
    torch.testing.assert_close(value.double(), exact[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradient.double(), exact[1], rtol=1e-5, atol=1e-5)


def test_a_further_input_is_shared_by_all_chains() -> None:
    density, u = LogDensity(logistic), torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    potential = Potential(density.tempered, u, torch.tensor(0.5))
    assert potential.lanes is not None
    for beta in (0.0, 0.3, 1.0):
        value, _ = potential(u, torch.tensor(beta))
        exact = torch.stack([density.tempered(row, torch.tensor(beta)) for row in u])
        torch.testing.assert_close(value, exact, rtol=1e-13, atol=1e-13)


REFUSED = {"change_point", "geometric", "random_length", "random_minibatch"}  # without a density


@pytest.mark.parametrize("name", [name for name in EXAMPLES if name not in REFUSED])
def test_models_of_pyro_have_the_gradients_of_their_graphs(name: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        example = EXAMPLES[name]()
    density = LogDensity(example.model, *example.args, discrete=example.discrete)
    d = density.layout.size
    u = 0.5 * torch.sin(torch.arange(1.0, 1.0 + 3 * d)).reshape(3, d)
    graph = fold(capture_vector(density, u[0]))
    found = LaneFunction(graph, u)(u)
    for k, row in enumerate(u):
        for exact, lanes in zip(graph(row), found, strict=True):
            scale = float(exact.double().abs().max())
            torch.testing.assert_close(
                lanes[k], exact.to(lanes.dtype), rtol=1e-12, atol=1e-14 * scale
            )


@program
def two_kinds(y: Tensor) -> None:
    centre = sample("centre", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
    with plate("points", len(y)):
        z = sample("z", dist.Bernoulli(0.3))
        observe("y", dist.Normal(centre[z.long()], 1.0), y)


@program
def hidden_chain(y: Tensor) -> None:
    stay = sample("stay", dist.Beta(2.0, 2.0))

    def step(z: Tensor, now: Tensor) -> tuple[Tensor, None]:
        z = sample("z", dist.Bernoulli(torch.where(z == 1, stay, 1 - stay)))
        observe("y", dist.Normal(2 * z, 1.0), now)
        return z, None

    scan(step)(torch.zeros(()), y)


@pytest.mark.parametrize("p", [two_kinds, hidden_chain])
def test_programs_whose_finite_latents_are_summed_out(p: Any) -> None:
    y = torch.tensor([-1.6, 2.1, 1.8, -2.3, 2.2])
    density = LogDensity(marginal(p, exact=True), y)
    u = torch.linspace(-1.0, 1.5, 3 * density.layout.size).reshape(3, -1)
    potential = Potential(density, u)
    assert potential.lanes is not None
    value, gradient = potential(u)
    for k, row in enumerate(u):
        slope, exact = torch.func.grad_and_value(density)(row)
        torch.testing.assert_close(value[k], exact, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-12, atol=1e-12)


def written_in_place() -> None:
    w = sample("w", dist.Normal(torch.zeros(4), 1.0).to_event(1))
    total = w.new_zeros(3)
    total[0] = w[0]
    total[1:] += w[2:] * w[1]
    total.mul_(2.0)
    observe("y", dist.Normal(total, 1.0).to_event(1), torch.ones(3))


def test_programs_that_write_in_place() -> None:
    density = LogDensity(written_in_place)
    u = torch.linspace(-1.0, 1.5, 12).reshape(3, 4)
    potential = Potential(density, u)
    assert potential.lanes is not None
    value, gradient = potential(u)
    for k, row in enumerate(u):
        slope, exact = torch.func.grad_and_value(density)(row)
        torch.testing.assert_close(value[k], exact, rtol=1e-12, atol=0.0)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-12, atol=1e-12)


def chosen_by_lanes() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    places = (x > 0).long() + torch.zeros(2, dtype=torch.long)
    table = x * torch.arange(1.0, 101.0)  # too many to be compared
    observe("y", dist.Normal(table[places], 1.0).to_event(1), torch.ones(2))


def test_what_lane_code_does_not_know_is_left_to_inductor_by_name() -> None:
    said: list[str] = []
    u = torch.tensor([[0.4], [-0.3]])
    potential = Potential(LogDensity(chosen_by_lanes), u, notify=said.append)
    assert potential.lanes is None
    assert any("an index that lanes choose" in text for text in said)
    value, gradient = potential(u)
    slope = torch.tensor([[2.0], [1.0]])
    constant = 1.5 * math.log(2 * math.pi)
    exact = -0.5 * u.square() - (1 - slope * u).square() - constant
    torch.testing.assert_close(value, exact[:, 0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient, -u + 2 * slope * (1 - slope * u), rtol=1e-12, atol=0.0)


def test_lane_code_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a sum that starts from one disagrees with the graph."""
    monkeypatch.setitem(translation.NEUTRAL, "+", 1.0)
    u = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    with pytest.warns(RuntimeWarning, match="disagrees with the traced graph"):
        potential = Potential(LogDensity(logistic), u)
    assert potential.lanes is None
    torch.testing.assert_close(potential(u)[0], by_hand(u)[0], rtol=1e-12, atol=0.0)


def test_without_a_compiler_the_graph_runs_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    said: list[str] = []
    u = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    potential = Potential(LogDensity(logistic), u, notify=said.append)
    assert any("no C++ compiler" in text for text in said)
    torch.testing.assert_close(potential(u)[0], by_hand(u)[0], rtol=1e-12, atol=0.0)


def test_equal_graphs_share_one_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code names no data, so that other data of the same shape have it too."""
    monkeypatch.setattr(build, "LIBRARIES", tmp_path)

    def model(y: Tensor) -> None:
        w = sample("w", dist.Normal(0.0, 1.0))
        with plate("data", len(y)):
            observe("y", dist.Normal(w, 1.0), y)

    u = torch.tensor([[0.5], [1.5]])
    for y in (torch.arange(4.0), torch.arange(4.0) ** 2):
        value, _ = Potential(LogDensity(model, y), u)(u)
        exact = -0.5 * u[:, 0] ** 2 - 0.5 * (y - u).square().sum(-1) - 2.5 * math.log(2 * math.pi)
        torch.testing.assert_close(value, exact, rtol=1e-13, atol=0.0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".so"]


def test_a_cache_that_cannot_be_made_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIBRARIES", Path("/dev/null/lanes"))
    u = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    potential = Potential(LogDensity(logistic), u)
    assert potential.lanes is not None
    torch.testing.assert_close(potential(u)[0], by_hand(u)[0], rtol=1e-13, atol=0.0)


def test_a_damaged_library_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "LIBRARIES", tmp_path)
    u = torch.linspace(-1.0, 1.0, 6).reshape(2, 3)
    Potential(LogDensity(logistic), u)
    (library,) = tmp_path.iterdir()
    library.unlink()  # it may be loaded, so that it is not to be written into
    library.write_bytes(b"short")
    found = Potential(LogDensity(logistic), u)(u)[0]
    torch.testing.assert_close(found, by_hand(u)[0], rtol=1e-13, atol=0.0)


def test_rows_of_another_width_or_precision_are_refused() -> None:
    potential = Potential(LogDensity(logistic), torch.zeros(2, 3))
    for wrong in (torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.float32)):
        with pytest.raises(ValueError, match="compiled for"):
            potential(wrong)


def wraps(u: Tensor) -> Tensor:
    return ((u > 0).to(torch.int8) * 100 + 100).to(u.dtype) @ u


def signed_zero(u: Tensor) -> Tensor:
    return torch.atan2(torch.where(u > 0, -0.0, 0.0), -torch.ones(2)) @ u


def counted_truths(u: Tensor) -> Tensor:
    """An index_add of truth values is true, however many are added."""
    hits = torch.zeros(1, dtype=torch.bool).index_add(0, torch.tensor([0, 0]), u > 0)
    return hits.to(u.dtype).sum() * u.sum()


def written_as_numbers(u: Tensor) -> Tensor:
    """A comparison in place stays a number; what is copied into whole numbers loses its part."""
    y = u * 1.0
    y.gt_(0.25)
    z = torch.zeros_like(u, dtype=torch.int64)
    z.copy_(3.7 * u.detach())
    return ((y + y + z) * u).sum()


def whole_remainders(u: Tensor) -> Tensor:
    """Of numbers below zero, by numbers below zero, and near the largest that are exact."""
    k = (10.0 * u.detach()).long()
    return ((k % 3 + k % -4 + (2**52 + k) % 7) * u).sum()


def ignored_nan(u: Tensor) -> Tensor:
    added = torch.where(u > 0, torch.nan, 0.0)[:1]
    return torch.addmm(added, u[None], u[:, None], beta=0).sum()


@pytest.mark.parametrize(
    "density",
    [wraps, signed_zero, counted_truths, written_as_numbers, whole_remainders, ignored_nan],
)
def test_types_are_those_of_torch_away_from_the_start(density: Callable[[Tensor], Tensor]) -> None:
    """The start, at which all is checked, sees neither."""
    potential = Potential(density, -torch.ones(2, 2))
    u = torch.tensor([[1.0, 1.0], [0.5, -2.0]])
    value, gradient = potential(u)
    for k, row in enumerate(u):
        slope, exact = torch.func.grad_and_value(density)(row)
        torch.testing.assert_close(value[k], exact, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-13, atol=1e-13)


def singular() -> None:
    x = sample("x", dist.Normal(0.0, 1.0))
    matrix = torch.stack([torch.stack([x, x * 0.0]), torch.stack([x * 0.0, x + 2.0])])
    law = dist.MultivariateNormal(torch.zeros(2), matrix)
    observe("y", law, torch.tensor([0.5, -0.5]))


def test_a_matrix_without_factor_has_no_density_in_its_chain_alone() -> None:
    u = torch.tensor([[0.5], [-0.5], [1.5]])
    potential = Potential(LogDensity(singular), u)
    assert potential.lanes is not None
    with OF_BATCHES.collected() as failed:
        value, gradient = potential(u)
    assert value.isinf().tolist() == [False, True, False]
    assert gradient[1].tolist() == [0.0]
    assert [x.tolist() for x in failed] == [[0.0, 1.0, 0.0]]
    traced = Potential(LogDensity(singular), u, compiled=False)(u)
    torch.testing.assert_close(value, traced[0], rtol=1e-12, atol=0.0)
    torch.testing.assert_close(gradient, traced[1], rtol=1e-12, atol=0.0)


def squares(n: int) -> Callable[[Tensor], Tensor]:
    """Of n by n matrices made from a vector: what each decomposition is used for."""

    def density(u: Tensor) -> Tensor:
        a = u.reshape(2, n, n)
        spd = a @ a.mT + torch.eye(n) * (1.0 + n)
        lower = torch.linalg.cholesky_ex(spd)[0]
        solved = torch.linalg.solve_triangular(lower, a, upper=False)
        from_right = torch.linalg.solve_triangular(lower.mT, a, upper=True, left=False)
        inverse = torch.cholesky_inverse(lower[0]) + torch.linalg.inv_ex(spd[0])[0]
        return (
            (lower.sin() + solved + from_right).sum()
            + inverse.sum()
            + lower.diagonal(dim1=-2, dim2=-1).log().sum()
        )

    return density


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_decompositions_of_matrices(n: int) -> None:
    u = torch.randn(3, 2 * n * n, generator=torch.Generator().manual_seed(n))
    density = squares(n)
    value, gradient = LaneFunction(fold(capture_vector(density, u[0])), u)(u)
    for k, row in enumerate(u):
        slope, exact = torch.func.grad_and_value(density)(row)
        torch.testing.assert_close(value[k], exact, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-11, atol=1e-11)


def empty(n: int) -> Callable[[], Any]:
    def model() -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(x, 1.0).expand([n]).to_event(1), torch.ones(n))

    return model


@pytest.mark.parametrize("n", [0, 1])
def test_data_of_no_or_one_entry(n: int) -> None:
    u = torch.tensor([[0.5], [-1.0]])
    value, gradient = Potential(LogDensity(empty(n)), u)(u)
    exact = -0.5 * u**2 - n * 0.5 * (1 - u) ** 2 - (n + 1) * 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(value, exact[:, 0], rtol=1e-13, atol=0.0)
    torch.testing.assert_close(gradient, -u + n * (1 - u), rtol=1e-13, atol=0.0)
