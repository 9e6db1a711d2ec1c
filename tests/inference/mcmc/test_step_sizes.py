"""Step sizes that chains share, and those of their own: modes whose scales differ thirtyfold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pushforward import dist, factor, program, sample
from pushforward.inference import MCMC
from pushforward.inference.mcmc import nuts
from pushforward.inference.mcmc.adaptation import averaging_init, averaging_update, told
from pushforward.inference.results.fit import Fit

pytestmark = pytest.mark.usefixtures("double")

NARROW, WIDE = 0.1, 3.0
STARTS = {"x": torch.tensor([50.0, -50.0, 50.0, -50.0, -50.0])}  # three chains in the wide mode


@program
def modes() -> None:
    x = sample("x", dist.Normal(0.0, 1000.0))
    narrow, wide = ((x - 50.0) / NARROW).square(), ((x + 50.0) / WIDE).square()
    factor("modes", -0.5 * torch.where(x > 0, narrow, wide))


def run(how: str, compiled: bool, **options: object) -> Fit:
    method = MCMC(
        nuts(4, step_size=how),  # type: ignore[arg-type]
        chains=5,
        draws=100,
        warmup=150,
        init=STARTS,
        compiled=compiled,
        target=0.8,
        thin=1,
        progress=False,
    )
    return method.run(modes, seed=1)


def gradients(fit: Fit) -> Tensor:
    """Of a transition of each chain, [chains], on the average."""
    return fit.stats["n_steps"].double().mean(1)


def sizes(fit: Fit) -> Tensor:
    steps = fit.stats["step_size"]
    assert bool((steps == steps[:, :1]).all())
    return steps[:, 0]


@pytest.mark.parametrize("compiled", [True, False])
def test_chains_keep_step_sizes_of_their_own(compiled: bool) -> None:
    fit = run("own", compiled)
    steps, wide = sizes(fit), STARTS["x"] < 0
    ratio = steps[wide].log().mean() - steps[~wide].log().mean()
    assert abs(float(ratio.exp()) / (WIDE / NARROW) - 1.0) < 0.6
    assert bool((fit.stats["acceptance_rate"].mean(1) > 0.7).all())
    assert float(gradients(fit).max()) < 4.0
    assert len(set(steps.tolist())) == 5


@pytest.mark.parametrize("compiled", [True, False])
def test_shared_ones_suit_some_chains_alone(compiled: bool) -> None:
    fit = run("pooled", compiled)
    assert len(set(sizes(fit).tolist())) == 1
    assert float(fit.stats["acceptance_rate"].mean(1).min()) < 0.7


def test_a_run_goes_on_with_them() -> None:
    fit = run("own", True)
    method = MCMC(nuts(step_size="own"), chains=5, draws=50, thin=1, progress=False)
    more = method.run(modes, seed=2, resume=fit)
    assert torch.equal(more.stats["step_size"][:, -1], sizes(fit))


def test_what_one_chain_learns_does_not_depend_on_others() -> None:
    """Dual averaging of several step sizes is that of each."""
    steps, rates = torch.tensor([0.3, 1.2]), torch.tensor([[0.9, 0.2], [0.5, 0.7]])
    both = averaging_init(steps)
    for rate in rates:
        both = averaging_update(both, told(rate, steps))
    for chain in range(2):
        one = averaging_init(steps[chain])
        for rate in rates:
            one = averaging_update(one, told(rate[chain : chain + 1], steps[chain]))
        torch.testing.assert_close(both.log_average[chain], one.log_average)


def test_another_word_is_refused() -> None:
    with pytest.raises(ValueError, match="'pooled' or 'own'"):
        nuts(step_size="median")  # type: ignore[arg-type]
