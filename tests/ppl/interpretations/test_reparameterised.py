"""Sites under Pyro's reparameterisations: derived from what is sampled in their place, no data."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.reparam import HaarReparam, LocScaleReparam, SplitReparam

from pushforward import program
from pushforward.inference import MCMC, nuts, predict
from pushforward.ppl.interpretations.log_density import LogDensity

pytestmark = pytest.mark.usefixtures("double")
QUIET = {"compiled": False, "progress": False}


def schools() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("g", 3):
        th = pyro.sample("th", dist.Normal(mu, 0.5))
        pyro.sample("y", dist.Normal(th, 1.0), obs=torch.tensor([1.0, 2.0, 3.0]))


def series() -> None:
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    with pyro.plate("b", 2):
        z = pyro.sample("z", dist.Normal(torch.zeros(4), scale).to_event(1))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=torch.ones(2, 4))


def test_a_decentred_site_is_among_the_derived_values_and_is_no_data() -> None:
    p = pyro.poutine.reparam(schools, {"th": LocScaleReparam(0.0)})
    fit = MCMC(nuts(), chains=2, draws=20, warmup=20, **QUIET).run(p)
    assert list(fit.draws) == ["mu", "th_decentered", "th"]
    assert fit.latents == ("mu", "th_decentered")
    assert list(fit.log_likelihood) == list(fit.observed) == ["y"]
    by_hand = fit["mu"][..., None] + 0.5 * fit["th_decentered"]
    assert torch.allclose(fit["th"], by_hand, rtol=0, atol=1e-12)
    shown = "{mu: Real, th_decentered: Real[3], y: Real[3] observed} -> M Unit"
    assert str(program(p).type()) == shown
    assert list(predict(fit, p).sites) == ["th", "y"]
    assert torch.equal(predict(fit, p)["th"], fit["th"])


@pytest.mark.parametrize(
    ("reparam", "names"),
    [
        (HaarReparam(dim=-1), ["z_haar"]),
        (SplitReparam([1, 3], -1), ["z_split_0", "z_split_1"]),
    ],
    ids=["haar", "split"],
)
def test_what_is_scored_at_a_derived_site_counts(reparam: object, names: list[str]) -> None:
    """Both maps are orthogonal: the density is that of the program as it is written."""
    p = pyro.poutine.reparam(series, {"z": reparam})
    fit = MCMC(nuts(), chains=2, draws=5, warmup=5, **QUIET).run(p)
    assert list(fit.draws) == ["scale", *names, "z"]
    assert list(fit.log_likelihood) == ["y"]
    z = fit["z"][0, -1]
    parts = [fit[name][0, -1] for name in names]
    assert torch.allclose(z.square().sum(-1), sum(x.square().sum(-1) for x in parts))
    plain, ours = LogDensity(series), LogDensity(p)
    scale = fit["scale"][0, -1]
    given = {"scale": scale, **dict(zip(names, parts, strict=True))}
    assert torch.allclose(
        ours(ours.layout.pack(given)), plain(plain.layout.pack({"scale": scale, "z": z}))
    )
