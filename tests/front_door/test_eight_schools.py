"""Eight schools with default settings against posteriordb's reference, and the demo around it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console

from pushforward import demo
from pushforward.examples import tiny
from pushforward.examples.eight_schools import eight_schools, load
from pushforward.inference import MCMC, Fit, nuts
from pushforward.inference.results.arviz import mcse
from pushforward.ppl import condition

DATA = load()
SIGMA, Y = DATA.sigma.float(), DATA.y.float()
PARAMETERS = ["mu", "tau", *(f"theta[{j}]" for j in range(8))]
QUANTILES = {"q05": 0.05, "q50": 0.5, "q95": 0.95}


def z_scores(fit: Fit) -> dict[tuple[str, str], float]:
    """(estimate - reference) over the standard error of both, by parameter and figure."""
    found = {}
    for parameter in PARAMETERS:
        site, _, rest = parameter.partition("[")
        index = (int(rest[:-1]),) if rest else ()
        draws = fit[site][(..., *index)].double().numpy()
        estimates = {"mean": draws.mean(), "sd": draws.std(ddof=1)}
        estimates |= {figure: np.quantile(draws, q) for figure, q in QUANTILES.items()}
        known = DATA.reference[parameter]
        for figure, estimate in estimates.items():
            error = mcse(draws, QUANTILES.get(figure, figure))
            scale = math.hypot(error, known[f"mcse_{figure}"])
            found[parameter, figure] = (estimate - known[figure]) / scale
    return found


@pytest.mark.parametrize("seed", range(5))
def test_nuts_agrees_with_the_reference(seed: int) -> None:
    """Mean, sd and three quantiles of ten parameters within |z| < 4.

    Under the null one seed fails with probability below 50 * 6.4e-5 = 0.3 % (union bound).
    """
    model = condition(eight_schools, {"y": Y})
    fit = MCMC(nuts(), progress=False).run(model, SIGMA, seed=seed)
    worst, z = max(z_scores(fit).items(), key=lambda item: abs(item[1]))
    table = fit.summary()
    print(
        f"seed {seed}: largest |z| {abs(z):.2f} at {worst}, R-hat {table['r_hat'].max():.4f}, "
        f"bulk ESS {table['ess_bulk'].min():.0f}, divergences {fit.divergences}"
    )
    assert abs(z) < 4.0
    assert float(table["r_hat"].max()) < 1.01
    assert float(table["ess_bulk"].min()) >= 400
    assert fit.divergences is not None and fit.divergences < 40
    assert all("diverged" in warning for warning in fit.warnings())


def test_a_model_with_another_prior_is_told_from_the_reference() -> None:
    """Negative control: a standard deviation of 5.5 instead of 5 for mu is seen."""
    from pushforward import deterministic, dist, plate, program, sample

    @program
    def wrong(sigma: torch.Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 6.0))
        tau = sample("tau", dist.HalfCauchy(5.0))
        with plate("school", len(sigma)):
            z = sample("z", dist.Normal(0.0, 1.0))
            sample("y", dist.Normal(deterministic("theta", mu + tau * z), sigma))

    fit = MCMC(nuts(), progress=False).run(condition(wrong, {"y": Y}), SIGMA, seed=0)
    assert max(map(abs, z_scores(fit).values())) > 4.0


def test_the_data_carry_their_licence() -> None:
    assert "BSD 3-Clause" in DATA.licence
    assert DATA.y.tolist() == [28, 8, -3, 7, -1, 1, 18, 12]
    assert DATA.sigma.tolist() == [15, 10, 16, 11, 9, 11, 10, 18]
    path = Path(demo.__file__).parent / "examples" / "eight_schools.json"
    assert json.loads(path.read_text())["reference"]["n_draws"] == 10000


@pytest.mark.parametrize("name", tiny.CHECKS)
def test_the_checks_of_the_demo_pass(name: str) -> None:
    tiny.CHECKS[name]().require()


def test_the_broken_filter_of_the_demo_fails_with_its_counterexample() -> None:
    report = tiny.broken()
    assert report.verdict == "fail"
    assert "has mass 0.030464 under the model" in report.counterexample


@pytest.mark.filterwarnings("ignore::DeprecationWarning:matplotlib.*")
def test_the_demo_runs_and_writes_its_report(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as log:
        assert demo.run(tmp_path / "out", seed=0, console=Console(file=log, width=100))
    text = (tmp_path / "log").read_text()
    assert "{mu: Real, tau: Positive, z: Real[8], y: Real[8] observed} -> M Real[8]" in text
    assert "counterexample: the value" in text
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count("<img") == 3
    assert "FAIL" in page and "PASS" in page and "BSD 3-Clause" in page
    assert len(list((tmp_path / "out").glob("*.png"))) == 3
