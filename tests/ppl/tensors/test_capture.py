"""Capture: one graph for the log density and gradient of many chains, compiled or not."""

from __future__ import annotations

import math
import shutil
import warnings
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.errors import DataError, NoDensityError
from pushforward.ppl import cond, condition, draw, factor, iterate, plate, program, sample, scan
from pushforward.ppl.compile.inductor import compile_graph
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture

Y = torch.tensor([0.3, -1.2, 2.0])


@program
def model(y: Tensor) -> None:
    mu = sample("mu", dist.Normal(y.new_zeros(()), 2.0))
    sigma = sample("sigma", dist.HalfNormal(y.new_ones(())))
    with plate("n", len(y)):
        sample("y", dist.Normal(mu, sigma), obs=y)


def by_hand(u: Tensor, y: Tensor) -> Tensor:
    """The density of ``model`` at rows (mu, log sigma), written out."""
    mu, sigma = u[:, 0], u[:, 1].exp()
    half_log = 0.5 * math.log(2 * math.pi)
    prior = -0.5 * (mu / 2) ** 2 - math.log(2) - half_log
    prior = prior - 0.5 * sigma**2 - half_log + math.log(2) + u[:, 1]
    z = (y - mu[:, None]) / sigma[:, None]
    return prior + (-0.5 * z**2 - half_log - u[:, 1:]).sum(1)


def gradient_by_hand(u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = u.clone().requires_grad_()
    value = by_hand(leaf, y)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("chains", [1, 5])
@pytest.mark.parametrize("compiled", [False, True])
def test_value_and_gradient_are_those_written_by_hand(
    dtype: torch.dtype, tolerance: float, chains: int, compiled: bool
) -> None:
    y = Y.to(dtype)
    u = torch.linspace(-1, 1, 2 * chains, dtype=dtype).reshape(chains, 2)
    density = LogDensity(model, y)
    assert density.layout.coordinate_names() == ["mu", "sigma"]
    potential = Potential(density, u, compiled=compiled)
    for found, expected in zip(potential(u), gradient_by_hand(u, y), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    again = Potential(density, u, compiled=compiled)(u + 0.1)
    torch.testing.assert_close(again[0], by_hand(u + 0.1, y), rtol=10 * tolerance, atol=tolerance)


def test_the_graph_holds_no_handlers_and_no_python() -> None:
    density = LogDensity(model, Y)
    graph = capture(density, torch.zeros(4, 2))
    kinds = {node.op for node in graph.graph.nodes}
    assert kinds <= {"placeholder", "call_function", "output", "get_attr"}
    assert all("aten" in str(n.target) for n in graph.graph.nodes if n.op == "call_function")


def test_further_arguments_are_shared_by_all_chains() -> None:
    density = LogDensity(model, Y)
    u = torch.tensor([[0.5, 0.1], [0.0, -0.3]])
    half = Potential(density.tempered, u, torch.tensor(0.5), compiled=False)
    prior, likelihood = zip(*(density.prior_and_likelihood(row) for row in u), strict=True)
    value, _ = half(u, torch.tensor(0.25))
    torch.testing.assert_close(value, torch.stack(prior) + 0.25 * torch.stack(likelihood))


def test_loops_and_branches_are_captured() -> None:
    """A branch on a random value runs both sides; the density is that of the one taken."""

    @program
    def branching(ys: Tensor) -> None:
        x = sample("x", dist.Normal(0.0, 1.0))
        cond(x > 0, lambda: factor("right", -x), lambda: factor("left", 2.0 * x))()

        def step(c: Tensor, y: Tensor) -> tuple[Tensor, None]:
            c = sample("z", dist.Normal(c, 1.0))
            sample("y", dist.Normal(c, 0.5), obs=y)
            return c, None

        last, _ = scan(step)(x, ys)
        iterate(lambda c: sample("w", dist.Normal(c, 1.0)), 2)(last)

    density = LogDensity(branching, Y)
    assert density.layout.coordinate_names() == ["x", "z[0]", "z[1]", "z[2]", "w[0]", "w[1]"]
    u = torch.stack([torch.linspace(-1, 1, 6), torch.linspace(0.5, -1, 6)])
    x, z, w = u[:, 0], u[:, 1:4], u[:, 4:]
    before = torch.cat([u[:, :3], u[:, 3:5]], 1)
    expected = dist.Normal(0.0, 1.0).log_prob(x) + torch.where(x > 0, -x, 2.0 * x)
    expected = expected + dist.Normal(before, 1.0).log_prob(torch.cat([z, w], 1)).sum(1)
    expected = expected + dist.Normal(z, 0.5).log_prob(Y).sum(1)
    value, gradient = Potential(density, u, compiled=False)(u)
    torch.testing.assert_close(value, expected)
    assert gradient.shape == (2, 6)


def test_discrete_latents_are_fixed_by_name() -> None:
    @program
    def mixture() -> None:
        z = sample("z", dist.Categorical(torch.tensor([0.25, 0.75])))
        sample("x", dist.Normal(2.0 * z, 1.0))

    density = LogDensity(mixture, discrete={"z": torch.tensor(1)})
    expected = math.log(0.75) + float(dist.Normal(2.0, 1.0).log_prob(torch.tensor(0.5)))
    assert float(density(torch.tensor([0.5]))) == pytest.approx(expected)
    with pytest.raises(DataError, match=r"no latent site called \['q'\]"):
        LogDensity(mixture, discrete={"q": torch.tensor(1)})


def test_a_program_that_draws_has_no_density() -> None:
    with pytest.raises(NoDensityError, match="draws anonymously"):
        LogDensity(program(lambda: draw(dist.Normal(0.0, 1.0))))


def test_without_a_compiler_the_graph_runs_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    said: list[str] = []
    graph = capture(LogDensity(model, Y), torch.zeros(1, 2))
    assert compile_graph(graph, torch.zeros(1, 2), notify=said.append) is graph
    assert said == ["no C++ compiler found: running the uncompiled graph"]


def test_a_failing_compiler_falls_back_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor as inductor

    def fail(*args: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(inductor, "compile", fail)
    graph = capture(LogDensity(model, Y), torch.zeros(1, 2))
    with pytest.warns(RuntimeWarning, match="no such instruction"):
        assert compile_graph(graph, torch.zeros(1, 2)) is graph


def test_a_wrong_compiler_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor as inductor

    def wrong(graph: Any, example: Any, options: Any) -> Any:
        return lambda *a: [2.0 * x for x in graph(*a)]

    monkeypatch.setattr(inductor, "compile", wrong)
    graph = capture(LogDensity(model, Y), torch.zeros(1, 2))
    with pytest.warns(RuntimeWarning, match="disagrees"):
        assert compile_graph(graph, torch.zeros(1, 2)) is graph


def test_compiling_is_announced() -> None:
    said: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Potential(LogDensity(model, Y), torch.zeros(5, 2), notify=said.append)
    assert "compiling" in said[0] and "compiled in" in said[1]


def test_a_density_inside_an_algorithm_is_no_effect_of_it() -> None:
    """A score or a name inside a density is not one of the program that evaluates it."""
    from pushforward.ppl import assess, simulate

    density = LogDensity(condition(model, {}), Y)

    def algorithm() -> Tensor:
        with plate("outer", 3):
            return density(torch.tensor([0.5, 0.1]))

    trace = simulate(program(algorithm))
    assert trace.choices == {} and trace.observed == {}
    assert float(trace.log_density) == 0.0
    torch.testing.assert_close(trace.value, by_hand(torch.tensor([[0.5, 0.1]]), Y)[0])
    nested = program(lambda: assess(model, {"mu": Y[0], "sigma": Y[2]}, Y)[0])
    assert simulate(nested).observed == {}
