"""Unmodified Pyro models: typed, captured and differentiated as Pyro itself would have it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS, SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import Adam
from support import pyro_models
from support.pyro_models import EXAMPLES, Example
from torch import Tensor
from torch.distributions import biject_to

from pushforward.ppl import program, simulate
from pushforward.ppl.compile.potential import Potential
from pushforward.ppl.errors import BranchError, NoDensityError
from pushforward.ppl.interpretations.abstract_run import program_type, trace_type
from pushforward.ppl.interpretations.log_density import LogDensity
from pushforward.ppl.tensors.capture import capture
from pushforward.semantics import denote

SOURCE = Path(pyro_models.__file__).read_text().splitlines()

# Model -> its type, or the error that refuses it, where (a piece of that line), and the rest.
TABLE: dict[str, str | tuple[type[Exception], str, str]] = {
    "bayesian_regression": "{sigma: Interval(0, 10), linear.weight: Real[1, 3], "
    "linear.bias: Real[1], obs: Real[5] observed} -> M Real[5]",
    "logistic_regression": "{beta: Real[2], intercept: Real, y: Bool[6] observed} -> M Real[6]",
    "poisson_regression": "{a: Real, b: Real, counts: Nat[5] observed} -> M Unit",
    "horseshoe_regression": "{tau: Positive, lambda: Positive[4], unscaled_beta: Real[4], "
    "prec_obs: Positive, Y: Real[6] observed} -> M Real[4]",
    "ordinal_regression": "{coef: Real, cutpoints: Ordered(3), y: Fin(4)[5] observed} -> M Unit",
    "eight_schools": "{mu: Real, tau: Positive, eta: Real[8], obs: Real[8] observed} -> M Real[8]",
    "reparametrized_schools": "{mu: Real, tau: Positive, school_decentered: Real[8], "
    "y: Real[8] observed} -> M Unit",
    "radon": "{mu_alpha: Real, sigma_alpha: Positive, beta: Real, alpha: Real[4], "
    "sigma: Positive, log_radon: Real[7] observed} -> M Unit",
    "item_response_2pl": "{ability: Real[3], difficulty: Real[2], slope: Positive[2], "
    "correct: Bool[5] observed} -> M Unit",
    "lkj_multivariate": "{theta: Positive[3], L_omega: CorrCholesky(3), mu: Real[3], "
    "obs: Real[5, 3] observed} -> M Real[5, 3]",
    "gaussian_mixture": "{weights: Simplex(2), scale: Positive, locs: Real[2], "
    "assignment: Fin(2)[5], obs: Real[5] observed} -> M Unit",
    "marginal_mixture": "{weights: Simplex(3), locs: Real[3], scales: Positive[3], "
    "obs: Real[6] observed} -> M Unit",
    "latent_dirichlet_allocation": "{topic_weights: Positive[3], topic_words: Simplex(5)[3], "
    "doc_topics: Simplex(3)[2], word_topics: Fin(3)[4, 2], doc_words: Fin(5)[4, 2] observed} "
    "-> M Unit",
    "hidden_markov_model": "{probs_x: Simplex(3)[3], probs_y: UnitInterval[3], "
    "x_0: Fin(3), y_0: Bool observed, x_1: Fin(3), y_1: Bool observed, "
    "x_2: Fin(3), y_2: Bool observed, x_3: Fin(3), y_3: Bool observed} -> M Unit",
    "batched_hidden_markov_model": "{probs_x: Simplex(2)[2], probs_y: UnitInterval[2, 4], "
    "x_0: Fin(2)[2, 1], y_0: Bool[2, 4] observed, x_1: Fin(2)[2, 1], y_1: Bool[2, 4] observed, "
    "x_2: Fin(2)[2, 1], y_2: Bool[2, 4] observed} -> M Unit",
    "stochastic_volatility": "{sigma: Positive, nu: Positive, noise: Real[6], "
    "r: Real[6] observed} -> M Unit",
    "autoregressive": "{alpha: Real, phi: Interval(-1, 1)[2], sigma: Positive, "
    "y_2: Real observed, y_3: Real observed, y_4: Real observed, y_5: Real observed} -> M Unit",
    "local_level": "{drift_scale: Positive, noise_scale: Positive, level_0: Real, "
    "level_1: Real, level_2: Real, level_3: Real, y: Real[4] observed} -> M Real[4]",
    "gaussian_process": "{kernel_var: Positive, kernel_noise: Positive, kernel_length: Positive, "
    "y: Real[6] observed} -> M Unit",
    "gaussian_process_module": "{kernel.lengthscale: Positive, kernel.variance: Positive, "
    "y: Real[6] observed} -> M Real[6]",
    "variational_autoencoder": "{latent: Real[3, 2], obs: Bool[3, 5] observed} -> M Real[3, 5]",
    "bayesian_network": "{layer1.weight: Real[4, 1], layer1.bias: Real[4], "
    "layer2.weight: Real[1, 4], obs: Real[6] observed} -> M Real[6]",
    "censored_survival": "{shape: Positive, beta: Real, time: Positive[3] observed} -> M Unit",
    "masked_and_scaled": "{loc: Real, scale: Positive[4], y: Real[4] observed} -> M Unit",
    "minibatch": "{w: Real, noise: Positive[3], y: Real[3] observed} -> M Unit",
    "missing_data": "{loc: Real, scale: Positive, shift: Positive, lag_0: Real observed, "
    "lag_1: Real observed, y: Real[2] observed} -> M Unit",
    "imputed_data": "{loc: Real, imputed: Real[2], y_1: Real observed, y_2: Real observed, "
    "y_3: Real observed} -> M Real[4]",
    "learnable_prior": "{z: Real, y: Real[4] observed} -> M Real",
    "change_point": (BranchError, "< tau else late", "depends on 'tau'.*use cond"),
    "geometric": (BranchError, ".item() == 1", "depends on 'x_0'.*use cond"),
    "random_length": (BranchError, "range(int(n)):\n        total", "depends on 'n'.*use cond"),
    "random_minibatch": (
        NoDensityError,
        "subsample=batch) as index",
        "draws 3 of 9 indices.*'data'.*give the indices as subsample",
    ),
}
TYPED = [name for name, outcome in TABLE.items() if isinstance(outcome, str)]
REFUSED = [name for name in TABLE if name not in TYPED]
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def example(name: str) -> Example:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return EXAMPLES[name]()


def points(size: int) -> Tensor:
    """Three points in unconstrained coordinates."""
    return 0.5 * torch.sin(torch.arange(1.0, 1.0 + 3 * size)).reshape(3, size)


def by_pyro(case: Example, density: LogDensity, u: Tensor) -> Tensor:
    """Pyro's own log density at the values that torch's own bijections give, with Jacobian.

    Where a mask hides a latent, its whole density is put in: masks concern scores only.
    """
    values, log_det = dict(case.discrete), u.new_zeros(())
    for block in density.layout.blocks:
        transform = biject_to(block.constraint)
        free = u[block.start : block.stop].reshape(block.free_shape)
        values[block.name] = transform(free)
        log_det = log_det + transform.log_abs_det_jacobian(free, values[block.name]).sum()
    with pyro.get_param_store().scope():
        trace = poutine.trace(poutine.condition(case.model, values)).get_trace(*case.args)
        log_density: Tensor = trace.log_prob_sum() + log_det
    for name in values:
        node = trace.nodes[name]
        if node["mask"] is not None:
            whole = (node["fn"].log_prob(node["value"]) * node["scale"]).sum()
            log_density = log_density - node["log_prob_sum"] + whole
    return log_density


@functools.cache
def deviations(name: str, dtype: torch.dtype) -> dict[str, float]:
    """How far the graph of a model is from Pyro: of the log density, and of its gradient."""
    with default_dtype(dtype):
        case = example(name)
        density = LogDensity(case.model, *case.args, discrete=case.discrete)
        u = points(density.layout.size)
        graph = capture(density, u)
        moved = (u + 0.25).requires_grad_()  # other points than those of the trace
        value, gradient = graph(moved.detach())
        expected = torch.stack([by_pyro(case, density, row) for row in moved])
        expected_gradient = torch.autograd.grad(expected.sum(), moved)[0]
        assert value.dtype == gradient.dtype == dtype
        assert value.shape == (3,) and not value.requires_grad and not gradient.requires_grad
        return {
            "density": float(((value - expected).abs() / (1 + expected.abs())).detach().max()),
            "gradient": float(
                ((gradient - expected_gradient).abs() / (1 + expected_gradient.abs())).max()
            ),
        }


def passes(name: str) -> bool:
    """Whether a model goes through all stages: type, log density, capture, gradient."""
    try:
        case = example(name)
        if str(program_type(case.model, *case.args)) != TABLE[name]:
            return False
        return max(deviations(name, torch.float64).values()) < TOLERANCE[torch.float64]
    except Exception:
        return False


def line_of(piece: str) -> int:
    """The line of the models' file on which ``piece`` begins."""
    text = "\n".join(SOURCE)
    assert text.count(piece) == 1, piece
    return text[: text.index(piece)].count("\n") + 1


# ---------------------------------------------------------------------------------------- the table


@pytest.mark.parametrize("name", TYPED)
def test_the_type_of_a_pyro_model(name: str) -> None:
    case = example(name)
    assert str(program_type(case.model, *case.args)) == TABLE[name]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", TYPED)
def test_the_captured_density_and_gradient_are_those_of_pyro(name: str, dtype: torch.dtype) -> None:
    for what, deviation in deviations(name, dtype).items():
        assert deviation < TOLERANCE[dtype], what


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_is_refused_with_its_line_and_a_hint(name: str) -> None:
    outcome, case = TABLE[name], example(name)
    assert not isinstance(outcome, str)
    error, piece, said = outcome
    with pytest.raises(error, match=said) as caught:
        LogDensity(case.model, *case.args)
    assert f"pyro_models.py:{line_of(piece)})" in str(caught.value)


def test_four_fifths_of_the_models_pass_all_stages() -> None:
    assert TABLE.keys() == EXAMPLES.keys() and len(TABLE) >= 20
    passing = [name for name in TABLE if passes(name)]
    assert len(passing) >= 0.8 * len(TABLE)
    assert passing == TYPED


def test_models_know_of_no_other_library() -> None:
    roots = {
        line.split()[1].split(".")[0] for line in SOURCE if line.startswith(("import ", "from"))
    }
    assert roots == {"__future__", "collections", "math", "pyro", "torch", "typing"}


# ----------------------------------------------------------------- what is left as it was, and read


STATEFUL = ["learnable_prior", "variational_autoencoder", "bayesian_network"]


@pytest.mark.parametrize("name", [*STATEFUL, "random_minibatch", "gaussian_mixture"])
def test_the_parameter_store_and_the_random_state_are_left_alone(name: str) -> None:
    case, store = example(name), pyro.get_param_store()
    with store.scope():
        mine = pyro.param("prior_loc", torch.tensor(3.0))
        before, random = store.get_state(), torch.get_rng_state()
        program_type(case.model, *case.args)
        if name != "random_minibatch":
            density = LogDensity(case.model, *case.args, discrete=case.discrete)
            u = points(density.layout.size)
            torch.func.vmap(density)(u)
            capture(density, u)
            Potential(density, u, compiled=False)(u)
        after = store.get_state()
        assert torch.equal(torch.get_rng_state(), random)
        assert after["params"].keys() == before["params"].keys() == {"prior_loc"}
        assert after["params"]["prior_loc"] is before["params"]["prior_loc"]
        assert after["constraints"] == before["constraints"]
        assert float(mine.detach()) == 3.0 and mine.requires_grad


def test_parameters_are_read_from_the_store_or_take_their_initial_values() -> None:
    y = torch.tensor([0.5])

    def by_hand(loc: float) -> Tensor:
        z = torch.tensor([[0.25]])
        mixture = dist.Normal(z + torch.arange(3.0), 1.0).log_prob(y).logsumexp(-1)
        return dist.Normal(loc, 2.0).log_prob(z)[:, 0] + mixture - torch.tensor(3.0).log()

    store, u = pyro.get_param_store(), torch.tensor([[0.25]])
    with store.scope():
        fresh = LogDensity(pyro_models.learnable_prior, y)
        pyro.param("prior_loc", torch.tensor(3.0))
        trained = LogDensity(pyro_models.learnable_prior, y)
    torch.testing.assert_close(capture(fresh, u)(u)[0], by_hand(0.5))
    torch.testing.assert_close(capture(trained, u)(u)[0], by_hand(3.0))
    assert trained.layout.coordinate_names() == ["z"]


def test_a_graph_keeps_the_parameters_that_it_was_captured_with() -> None:
    case = example("variational_autoencoder")
    density = LogDensity(case.model, *case.args)
    u = points(density.layout.size)
    graph = capture(density, u)
    before = graph(u)[0]
    with torch.no_grad():
        for parameter in case.model.__self__.parameters():  # type: ignore[attr-defined]
            parameter.add_(1.0)
    torch.testing.assert_close(graph(u)[0], before)
    assert not torch.allclose(capture(density, u)(u)[0], before)


def test_a_minibatch_with_given_indices_is_scaled_up() -> None:
    x, y = pyro_models.wave(9), pyro_models.wave(9)
    index = torch.tensor([1, 4, 8])
    density = LogDensity(pyro_models.minibatch, x, y, index)
    u = torch.zeros(1, density.layout.size)  # w = 0, noise = 1
    each = dist.Gamma(2.0, 2.0).log_prob(torch.tensor(1.0)) + dist.Normal(0.0, 1.0).log_prob(y)
    expected = 3.0 * each[index].sum() + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(capture(density, u)(u)[0], expected[None])
    whole = LogDensity(pyro_models.minibatch, x, y, None, 9)
    u = torch.zeros(1, whole.layout.size)
    expected = each.sum() + dist.Normal(0.0, 1.0).log_prob(torch.tensor(0.0))
    torch.testing.assert_close(capture(whole, u)(u)[0], expected[None])


def test_the_type_of_a_random_minibatch_has_its_size() -> None:
    case = example("random_minibatch")
    assert str(program_type(case.model, *case.args)) == TABLE["minibatch"]


# --------------------------------------------------------------------------- both ways, and replay


def both(model: Callable[..., Any], run: Callable[[Callable[..., Any]], Any]) -> tuple[Any, Any]:
    """What ``run`` makes of a model and of the program made of it, from one seed."""
    results = []
    for target in (model, program(model)):
        with pyro.get_param_store().scope(), torch.random.fork_rng():
            torch.manual_seed(0)
            results.append(run(target))
    return results[0], results[1]


@pytest.mark.parametrize("name", ["eight_schools", "radon"])
def test_nuts_of_pyro_accepts_a_program(name: str) -> None:
    case = example(name)

    def run(target: Callable[..., Any]) -> dict[str, Tensor]:
        mcmc = MCMC(NUTS(target), num_samples=5, warmup_steps=5, disable_progbar=True)
        mcmc.run(*case.args)
        samples: dict[str, Tensor] = mcmc.get_samples()
        return samples

    plain, programs = both(case.model, run)
    latents = trace_type(case.model, *case.args).latents
    assert set(programs) == set(plain) == set(latents)
    for site, draws in programs.items():
        assert draws.shape == (5, *latents[site].space.shape)
        assert torch.equal(draws, plain[site])


@pytest.mark.parametrize("name", ["eight_schools", "random_minibatch", "learnable_prior"])
def test_svi_of_pyro_accepts_a_program(name: str) -> None:
    case = example(name)

    def plates(*args: Any) -> Any:
        return pyro.plate("data", 9, subsample_size=3, dim=-1)

    def run(target: Callable[..., Any]) -> tuple[list[float], dict[str, Tensor]]:
        guide = AutoNormal(target, create_plates=plates if name == "random_minibatch" else None)
        svi = SVI(target, guide, Adam({"lr": 0.05}), Trace_ELBO())
        losses = [svi.step(*case.args) for _ in range(10)]
        return losses, {name: value.detach() for name, value in pyro.get_param_store().items()}

    (plain, parameters), (losses, ours) = both(case.model, run)
    assert losses == plain and len(set(losses)) == 10
    assert ours.keys() == parameters.keys()
    assert all(torch.equal(value, parameters[site]) for site, value in ours.items())


# ------------------------------------------------------------------------------- the exact meaning


def test_the_sprinkler_denotes_what_bayes_says() -> None:
    """P(rain) = 1/4; wet: 3/4 of 1/2 without rain; 7/8 1/2 + 1/8 with rain."""
    assert str(trace_type(pyro_models.sprinkler)) == (
        "{rain: Bool, sprinkler: Bool, wet: Bool observed}"
    )
    measure = denote(pyro_models.sprinkler)
    dry, rain = 0.75 * 0.5 * 0.75, 0.25 * (0.875 * 0.5 + 0.125)
    assert measure.pmf() == pytest.approx({0.0: dry, 1.0: rain}, rel=1e-7)
    assert measure.mass() == pytest.approx(dry + rain, rel=1e-7)


def test_a_markov_model_denotes_the_forward_recursion() -> None:
    walks = [1, 0, 0]
    assert str(trace_type(pyro_models.weather, walks)) == (
        "{x_0: Fin(2), y_0: Bool observed, x_1: Fin(2), y_1: Bool observed, "
        "x_2: Fin(2), y_2: Bool observed}"
    )
    forward = torch.tensor([1.0, 0.0], dtype=torch.float64)
    for walk in walks:
        chance = torch.tensor([0.5, 0.125] if walk else [0.5, 0.875])
        forward = (forward @ torch.tensor([[0.75, 0.25], [0.5, 0.5]]).double()) * chance
    expected = dict(enumerate(forward.tolist()))
    assert denote(pyro_models.weather, walks).pmf() == pytest.approx(expected, rel=1e-7)


def test_what_cannot_be_captured_still_runs() -> None:
    counts = torch.tensor([4.0, 5.0, 1.0, 0.0])
    trace = simulate(pyro_models.change_point, counts, seed=0)
    assert set(trace.choices) == {"early", "late", "tau"}
    after = torch.arange(4) / 4 >= trace.choices["tau"]
    rate = torch.where(after, trace.choices["late"], trace.choices["early"])
    scored = torch.stack([trace.log_probs[f"count_{t}"] for t in range(4)])
    torch.testing.assert_close(scored, dist.Poisson(rate).log_prob(counts))
    assert denote(pyro_models.geometric, torch.tensor(1.0)).pmf() == {0: 1.0}
