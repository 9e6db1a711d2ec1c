"""SMC^2 in lanes: valid for any numbers of particles, and quick on a longer series.

Where particles move must not depend on their weights: the last tests show by exact evaluation that
it is not enough that the kernel leaves the target invariant.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from support.faulty import faulty
from torch import Tensor

from pushforward import dist, factor, observe, sample, scan
from pushforward.errors import ProgramError
from pushforward.inference import multinomial, smc, smc_squared
from pushforward.inference.kernels import single_site
from pushforward.semantics import check

ROWS = torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64)
SEEN = torch.tensor([0.7, 0.2], dtype=torch.float64)


module = importlib.import_module("pushforward.inference.smc.smc_squared")
smc_module = importlib.import_module("pushforward.inference.smc.smc")


pytestmark = pytest.mark.usefixtures("double")


def prior(ys: Tensor) -> Tensor:
    return sample("theta", dist.Bernoulli(0.25))


def chain(theta: Tensor, ys: Tensor) -> Tensor:
    def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
        up = torch.where(theta == 1, ROWS[x, 1], 1 - ROWS[x, 1])
        x = sample("x", dist.Bernoulli(up)).long()
        observe("y", dist.Bernoulli(SEEN[1 - x]), y)
        return x, None

    return scan(step)(torch.tensor(0), ys)[0]


def both(ys: Tensor) -> Any:
    theta = prior(ys)
    return theta, chain(theta, ys)


def other(choices: dict[str, Tensor], ys: Tensor) -> None:
    sample("theta", dist.Bernoulli(0.3 + 0.4 * (1 - choices["theta"])))


@pytest.mark.parametrize(
    ("steps", "n", "inner"), [(1, 1, 1), (1, 2, 1), (1, 2, 2), (2, 1, 1), (2, 2, 1), (2, 1, 2)]
)
@pytest.mark.parametrize("ess", [0.5, 0.9, 1.0])
def test_smc_squared_is_valid(steps: int, n: int, inner: int, ess: float) -> None:
    ys = torch.tensor([1.0, 0.0])[:steps]
    for proposal in (None, other):
        algorithm = smc_squared(prior, chain, n, inner, proposal, 1, multinomial, ess)
        assert check.valid(algorithm, both, ys).require().deviation < 1e-12


def test_moves_seldom_are_valid() -> None:
    ys = torch.tensor([1.0, 0.0, 1.0])
    check.valid(smc_squared(prior, chain, 1, 1, other, 2), both, ys).require()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" - there.log_density", ""),
        ("ratio + back.log_weight", "ratio"),
        ("at(there.choices, *args)[1] - at(choices, *args)[1]", "torch.zeros(())"),
        (" + new[1].log_evidence() - old[1].log_evidence()", ""),
        ("population.log_weights + gained(states, after)", "population.log_weights"),
    ],
)
def test_wrong_ones_are_rejected(old: str, new: str) -> None:
    def uneven(choices: dict[str, Tensor], ys: Tensor) -> None:
        sample("theta", dist.Bernoulli(0.3 + 0.5 * (1 - choices["theta"])))

    wrong = faulty(module, old, new).smc_squared
    ys = torch.tensor([1.0, 0.0])
    assert check.valid(smc_squared(prior, chain, 1, 1, uneven), both, ys).verdict == "pass"
    assert check.valid(wrong(prior, chain, 1, 1, uneven), both, ys).verdict == "fail"


def test_a_longer_series_against_exact_parameters() -> None:
    """Level 1e-5: the posterior mean of one coin, within 4.5 standard errors of 20 runs."""

    def biased(ys: Tensor) -> Tensor:
        return sample("theta", dist.Beta(2.0, 2.0))

    def noisy(theta: Tensor, ys: Tensor) -> None:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, None]:
            x = sample("x", dist.Bernoulli(theta))
            observe("y", dist.Bernoulli(0.1 + 0.8 * x), y)
            return x, None

        scan(step)(torch.tensor(0.0), ys)

    def walk(choices: dict[str, Tensor], ys: Tensor) -> None:
        around = dist.Normal(choices["theta"].logit(), 0.7)
        sample("theta", dist.TransformedDistribution(around, [dist.transforms.SigmoidTransform()]))

    ys = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0])
    grid = torch.linspace(0.0005, 0.9995, 1000)
    heads = 0.1 + 0.8 * grid
    density = dist.Beta(2.0, 2.0).log_prob(grid) + 6 * heads.log() + 2 * (1 - heads).log()
    evidence = float(torch.logsumexp(density, 0)) - math.log(1000)
    mean = float(torch.softmax(density, 0) @ grid)
    torch.manual_seed(0)
    algorithm = smc_squared(biased, noisy, 64, 32, walk, every=4)
    with torch.no_grad():
        runs = [algorithm(ys) for _ in range(20)]
    means = torch.stack([run.probabilities() @ run.values[0] for run in runs])
    assert abs(float(means.mean()) - mean) < 4.5 * float(means.std()) / math.sqrt(20)
    ratio = (torch.stack([run.log_evidence() for run in runs]) - evidence).exp()
    assert abs(float(ratio.mean()) - 1) < 4.5 * float(ratio.std()) / math.sqrt(20)


def test_outputs_and_numbers_are_refused() -> None:
    def with_outputs(theta: Tensor, ys: Tensor) -> Tensor:
        def step(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
            observe("y", dist.Bernoulli(SEEN[0]), y)
            return x, x

        return scan(step)(theta, ys)[1]

    with pytest.raises(ProgramError, match="have outputs"):
        smc_squared(prior, with_outputs, 2, 2)(torch.ones(2))
    with pytest.raises(ValueError, match="at least one"):
        smc_squared(prior, chain, 2, 0)


# ------------------------------------------------------------------------------- where to move


def two() -> Any:
    x = sample("x", dist.Bernoulli(0.3))
    factor("first", torch.where(x == 1, 0.9, 0.2).log())
    y = sample("y", dist.Bernoulli(torch.where(x == 1, 0.6, 0.3)))
    factor("second", torch.where(y == 1, 0.5, 0.125).log())
    return x, y


@pytest.mark.parametrize("ess", [0.4, 0.8, 1.0])
def test_moves_are_valid_whenever_one_resamples(ess: float) -> None:
    algorithm = smc(two, 2, multinomial, ess=ess, move=single_site())
    check.valid(algorithm, two).require()


def test_moves_that_depend_on_the_weights_are_rejected() -> None:
    """Resample-move as it is often written: particles move where they were resampled."""
    alive = "float(population.log_evidence()) > -math.inf"
    old = f"            if move is not None and scores and {alive}:\n"
    wrong = faulty(smc_module, old, "").smc  # so that the move falls under the resampling
    check.valid(wrong(two, 2, multinomial, ess=1.0, move=single_site()), two).require()
    assert (
        check.valid(wrong(two, 2, multinomial, ess=0.8, move=single_site()), two).verdict == "fail"
    )
