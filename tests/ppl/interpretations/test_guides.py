"""Guides against models: which are refused before anything runs, with what words, and which fit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from pushforward.inference import importance
from pushforward.ppl import (
    condition,
    deterministic,
    factor,
    observe,
    plate,
    sample,
    scan,
    scope,
    simulate,
    vmap,
)
from pushforward.ppl.errors import BranchError, DuplicateNameError, ProgramError
from pushforward.ppl.interpretations.guides import GuideError, check_guide
from pushforward.ppl.types import Space, TraceType, compatible, included, space_of

SOURCE = Path(__file__).read_text().splitlines()
AUXILIARY = {"is_auxiliary": True}

# ----------------------------------------------------------------------------------------- models

schools = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
design = torch.linspace(-1.0, 1.0, 12).reshape(4, 3)


def centred() -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    with plate("school", 8):
        theta = sample("theta", dist.Normal(mu, tau))
        sample("y", dist.Normal(theta, 10.0), obs=schools)


def non_centred() -> None:
    mu = sample("mu", dist.Normal(0.0, 5.0))
    tau = sample("tau", dist.HalfCauchy(5.0))
    z = sample("z", dist.Normal(torch.zeros(8), 1.0).to_event(1))
    sample("y", dist.Normal(mu + tau * z, 10.0).to_event(1), obs=schools)


def logistic() -> None:
    w = sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    b = sample("b", dist.Normal(0.0, 5.0))
    with plate("row", 4):
        sample("y", dist.Bernoulli(logits=design @ w + b), obs=torch.tensor([0.0, 1.0, 1.0, 0.0]))


def regression() -> None:
    w = sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    noise = sample("noise", dist.Exponential(1.0))
    with plate("row", 4):
        sample("y", dist.Normal(design @ w, noise), obs=torch.arange(4.0))


def mixture() -> None:
    share = sample("share", dist.Dirichlet(torch.ones(3)))
    with plate("component", 3):
        centre = sample("centre", dist.Normal(0.0, 5.0))
    with plate("datum", 4):
        k = sample("k", dist.Categorical(share))
        sample("y", dist.Normal(centre[k], 1.0), obs=torch.arange(4.0))


def weather() -> None:
    def step(state: Tensor, seen: Tensor) -> tuple[Tensor, None]:
        state = sample("state", dist.Bernoulli(0.2 + 0.6 * state))
        observe("seen", dist.Normal(state, 1.0), seen)
        return state, None

    stay = sample("stay", dist.Beta(2.0, 2.0))
    scan(step)(stay * 0, torch.tensor([0.1, 0.9, 1.2]))


def beta_binomial() -> None:
    p = sample("p", dist.Beta(1.0, 1.0))
    sample("heads", dist.Binomial(10, p), obs=torch.tensor(7.0))


def gamma_poisson() -> None:
    rate = sample("rate", dist.Gamma(2.0, 1.0))
    lost = sample("lost", dist.Poisson(1.0))
    sample("count", dist.Poisson(rate), obs=lost + 3.0)


def correlated() -> None:
    factor_ = sample("factor", dist.LKJCholesky(2, 1.0))
    scale = sample("scale", dist.HalfNormal(torch.ones(2)).to_event(1))
    cholesky = scale[:, None] * factor_
    sample("y", dist.MultivariateNormal(torch.zeros(2), scale_tril=cholesky), obs=torch.ones(2))


def lanes() -> None:
    def one(seen: Tensor) -> None:
        rate = sample("rate", dist.Gamma(1.0, 1.0))
        observe("seen", dist.Poisson(rate), seen)

    vmap(one)(torch.tensor([1.0, 0.0, 4.0]))


def twice_scoped() -> None:
    for day in ("monday", "tuesday"):
        with scope(day):
            sample("rain", dist.Bernoulli(0.2))


def bounded() -> None:
    sample("x", dist.Uniform(0.0, 2.0))


def moving() -> None:
    top = sample("top", dist.HalfNormal(1.0))
    sample("x", dist.Uniform(0.0, top))


# ------------------------------------------------------------------------------------------- wrong


class Wrong(NamedTuple):
    """A guide that does not fit, and all that is said of it; ``@mark`` is the line ``# mark``."""

    name: str
    model: Callable[[], None]
    guide: Callable[[], Any]
    said: list[str]
    direction: Any = "both"


def hyper() -> None:
    sample("mu", dist.Normal(0.0, 1.0))
    sample("tau", dist.LogNormal(0.0, 1.0))


def misspelt() -> None:
    sample("mu", dist.Normal(0.0, 1.0))
    sample("taau", dist.LogNormal(0.0, 1.0))  # misspelt
    sample("theta", dist.Normal(torch.zeros(8), 1.0))


def additional() -> None:
    hyper()
    sample("theta", dist.Normal(torch.zeros(8), 1.0))
    sample("phi", dist.Normal(0.0, 1.0))  # additional


def proposes_the_data() -> None:
    hyper()
    sample("theta", dist.Normal(torch.zeros(8), 1.0))
    sample("y", dist.Normal(torch.zeros(8), 1.0))  # proposes the data


def real_scale() -> None:
    sample("mu", dist.Normal(0.0, 1.0))
    sample("tau", dist.Normal(0.0, 1.0))  # real scale
    sample("z", dist.Normal(torch.zeros(8), 1.0))


def positive_mean() -> None:
    sample("mu", dist.Gamma(2.0, 1.0))  # positive mean
    sample("tau", dist.LogNormal(0.0, 1.0))
    sample("z", dist.Normal(torch.zeros(8), 1.0))


def short_plate() -> None:
    hyper()
    with plate("school", 7):
        sample("theta", dist.Normal(0.0, 1.0))  # short plate


def short_vector() -> None:
    sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))  # short vector
    sample("b", dist.Normal(0.0, 1.0))


def vector_for_a_scalar() -> None:
    sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    sample("b", dist.Normal(torch.zeros(1), 1.0))  # vector for a scalar


def mixture_guide(share: Any, k: Any) -> Callable[[], None]:
    def proposing() -> None:
        sample("share", share)  # share
        sample("centre", dist.Normal(torch.zeros(3), 1.0))
        with plate("datum", 4):
            sample("k", k)  # k

    return proposing


THREE = dist.Dirichlet(torch.ones(3))


def whole_path() -> None:
    sample("stay", dist.Beta(1.0, 1.0))
    sample("state", dist.Bernoulli(0.5 * torch.ones(3)))  # whole path


def path_too_long() -> None:
    def step(state: Tensor, x: Tensor) -> tuple[Tensor, None]:
        return sample("state", dist.Bernoulli(0.5)), None  # path too long

    sample("stay", dist.Beta(1.0, 1.0))
    scan(step)(torch.tensor(0.0), torch.zeros(4))


def interval() -> None:
    sample("p", dist.Uniform(0.25, 0.75))  # interval


def counts_for_a_rate() -> None:
    sample("rate", dist.Poisson(2.0))  # counts for a rate
    sample("lost", dist.Poisson(1.0))


def bounded_counts() -> None:
    sample("rate", dist.Gamma(2.0, 1.0))
    sample("lost", dist.Binomial(5, 0.5))  # bounded counts


def integers_below_zero() -> None:
    sample("rate", dist.Gamma(2.0, 1.0))
    whole = dist.constraints.integer_interval(-1, 4)
    sample("lost", dist.ImproperUniform(whole, (), ()))  # integers below zero


def matrix_for_a_factor() -> None:
    sample("factor", dist.LKJ(2, 1.0))  # matrix for a factor
    sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))


def factor_too_large() -> None:
    sample("factor", dist.LKJCholesky(3, 1.0))  # factor too large
    sample("scale", dist.LogNormal(torch.zeros(2), 1.0).to_event(1))


def without_lanes() -> None:
    sample("rate", dist.Gamma(1.0, 1.0))  # without lanes


def without_scope() -> None:
    sample("rain", dist.Bernoulli(0.5))  # without scope


def wide() -> None:
    sample("x", dist.Uniform(0.0, 3.0))  # wide


def fixed_top() -> None:
    sample("top", dist.HalfNormal(1.0))
    sample("x", dist.Uniform(0.0, 1.0))  # fixed top


def observing() -> None:
    p = sample("p", dist.Beta(1.0, 1.0))
    sample("heads", dist.Binomial(10, p), obs=torch.tensor(7.0))  # observing


def scoring() -> None:
    p = sample("p", dist.Beta(1.0, 1.0))
    factor("penalty", -p)  # scoring


def unmarked() -> None:
    u = sample("u", dist.Normal(0.0, 1.0))  # unmarked
    sample("p", dist.Beta(torch.exp(u), 1.0))


def at_a_point(value: float) -> Callable[[], None]:
    def proposing() -> None:
        sample("p", dist.Delta(torch.tensor(value)))  # point

    return proposing


def delta_for_a_count() -> None:
    sample("rate", dist.Gamma(2.0, 1.0))
    sample("lost", dist.Delta(torch.tensor(1.0)))  # delta for a count


def outside_image() -> None:
    u = sample("u", dist.Normal(0.0, 1.0), infer=AUXILIARY)
    sample("p", dist.Delta(u - 1.0))  # outside image


STAY = "the guide must stay inside the model's support: propose on"
COVER = "the guide would never propose some values of"
SHAPE = "give the parameters that shape, or put the site in the same plates"
ONLY = "a guide only proposes: leave observations and factors to the model"

WRONG = [
    Wrong(
        "misspelt",
        centred,
        misspelt,
        [
            "the guide does not propose 'tau', which the model samples as Positive (@tau). "
            "propose it in the guide, on Positive",
            "the guide proposes 'taau', which the model does not sample (@misspelt); "
            "did you mean 'tau'?. rename the site of the guide",
        ],
    ),
    Wrong(
        "missing",
        centred,
        hyper,
        [
            "the guide does not propose 'theta', which the model samples as Real[8] (@theta). "
            "propose it in the guide, on Real[8]"
        ],
        "exclusive",
    ),
    Wrong(
        "additional",
        centred,
        additional,
        [
            "the guide proposes 'phi', which the model does not sample (@additional). "
            "leave it out, or mark it infer={'is_auxiliary': True}"
        ],
    ),
    Wrong(
        "proposes the data",
        centred,
        proposes_the_data,
        [
            "the guide proposes 'y', which the model observes (@proposes the data). "
            "leave it out of the guide"
        ],
    ),
    Wrong(
        "real for positive",
        non_centred,
        real_scale,
        [
            "at 'tau' the guide proposes Real where the model wants Positive (@real scale). "
            f"{STAY} Positive"
        ],
        "exclusive",
    ),
    Wrong(
        "positive for real",
        non_centred,
        positive_mean,
        [
            "at 'mu' the guide proposes Positive where the model wants Real (@positive mean). "
            f"{COVER} Real: cover all of them"
        ],
        "inclusive",
    ),
    Wrong(
        "plate size",
        centred,
        short_plate,
        [
            "at 'theta' the guide proposes shape [7] where the model wants [8] (@short plate). "
            f"{SHAPE}"
        ],
    ),
    Wrong(
        "vector length",
        logistic,
        short_vector,
        [f"at 'w' the guide proposes shape [2] where the model wants [3] (@short vector). {SHAPE}"],
    ),
    Wrong(
        "vector for a scalar",
        logistic,
        vector_for_a_scalar,
        [
            "at 'b' the guide proposes shape [1] where the model wants [] (@vector for a scalar). "
            f"{SHAPE}"
        ],
    ),
    Wrong(
        "continuous for discrete",
        mixture,
        mixture_guide(THREE, dist.Normal(0.0, 1.0)),
        [
            "at 'k' the guide proposes Real where the model wants Fin(3) (@k). "
            "the site is discrete: propose on Fin(3)"
        ],
        "inclusive",
    ),
    Wrong(
        "more categories",
        mixture,
        mixture_guide(THREE, dist.Categorical(torch.ones(4))),
        [f"at 'k' the guide proposes Fin(4) where the model wants Fin(3) (@k). {STAY} Fin(3)"],
        "exclusive",
    ),
    Wrong(
        "fewer categories",
        mixture,
        mixture_guide(THREE, dist.Bernoulli(0.5)),
        [
            "at 'k' the guide proposes Bool where the model wants Fin(3) (@k). "
            f"{COVER} Fin(3): cover all of them"
        ],
        "inclusive",
    ),
    Wrong(
        "another simplex",
        mixture,
        mixture_guide(dist.Dirichlet(torch.ones(4)), dist.Categorical(torch.ones(3))),
        [
            "at 'share' the guide proposes Simplex(4) where the model wants Simplex(3) (@share). "
            f"{STAY} Simplex(3)",
            f"at 'share' the guide proposes shape [4] where the model wants [3] (@share). {SHAPE}",
        ],
    ),
    Wrong(
        "reals for a simplex",
        mixture,
        mixture_guide(dist.Normal(torch.zeros(3), 1.0), dist.Categorical(torch.ones(3))),
        [
            "at 'share' the guide proposes Real where the model wants Simplex(3) (@share). "
            f"{COVER} Simplex(3): cover all of them"
        ],
        "inclusive",
    ),
    Wrong(
        "a vector for a path",
        weather,
        whole_path,
        [
            f"the guide does not propose 'state[{t}]', which the model samples as Bool (@state). "
            "propose it in the guide, on Bool"
            for t in range(3)
        ]
        + [
            "the guide proposes 'state', which the model does not sample (@whole path); "
            "did you mean 'state[2]'?. rename the site of the guide"
        ],
    ),
    Wrong(
        "a path too long",
        weather,
        path_too_long,
        [
            "the guide proposes 'state[3]', which the model does not sample (@path too long). "
            "leave it out, or mark it infer={'is_auxiliary': True}"
        ],
    ),
    Wrong(
        "a smaller interval",
        beta_binomial,
        interval,
        [
            "at 'p' the guide proposes Interval(0.25, 0.75) where the model wants UnitInterval "
            f"(@interval). {COVER} UnitInterval: cover all of them"
        ],
        "inclusive",
    ),
    Wrong(
        "discrete for continuous",
        gamma_poisson,
        counts_for_a_rate,
        [
            "at 'rate' the guide proposes Nat where the model wants Positive (@counts for a rate). "
            "the site is continuous: propose on Positive"
        ],
        "exclusive",
    ),
    Wrong(
        "bounded counts",
        gamma_poisson,
        bounded_counts,
        [
            "at 'lost' the guide proposes Fin(6) where the model wants Nat (@bounded counts). "
            f"{COVER} Nat: cover all of them"
        ],
        "inclusive",
    ),
    Wrong(
        "counts below zero",
        gamma_poisson,
        integers_below_zero,
        [
            "at 'lost' the guide proposes IntInterval(-1, 4) where the model wants Nat "
            f"(@integers below zero). {STAY} Nat"
        ],
        "exclusive",
    ),
    Wrong(
        "a matrix for its factor",
        correlated,
        matrix_for_a_factor,
        [
            "at 'factor' the guide proposes CorrMatrix(2) where the model wants CorrCholesky(2) "
            f"(@matrix for a factor). {STAY} CorrCholesky(2)"
        ],
        "exclusive",
    ),
    Wrong(
        "a factor too large",
        correlated,
        factor_too_large,
        [
            "at 'factor' the guide proposes CorrCholesky(3) where the model wants CorrCholesky(2) "
            f"(@factor too large). {STAY} CorrCholesky(2)",
            "at 'factor' the guide proposes shape [3, 3] where the model wants [2, 2] "
            f"(@factor too large). {SHAPE}",
        ],
    ),
    Wrong(
        "no lanes",
        lanes,
        without_lanes,
        [
            "at 'rate' the guide proposes shape [] where the model wants [3] (@without lanes). "
            f"{SHAPE}"
        ],
    ),
    Wrong(
        "no scope",
        twice_scoped,
        without_scope,
        [
            f"the guide does not propose '{day}/rain', which the model samples as Bool (@scoped). "
            "propose it in the guide, on Bool"
            for day in ("monday", "tuesday")
        ]
        + [
            "the guide proposes 'rain', which the model does not sample (@without scope); "
            "did you mean 'monday/rain'?. propose it within scope('monday')"
        ],
    ),
    Wrong(
        "a wider interval",
        bounded,
        wide,
        [
            "at 'x' the guide proposes Interval(0, 3) where the model wants Interval(0, 2) "
            f"(@wide). {STAY} Interval(0, 2)"
        ],
        "exclusive",
    ),
    Wrong(
        "a bound that moves",
        moving,
        fixed_top,
        [
            "at 'x' the guide proposes UnitInterval where the model wants Interval(0, ?) "
            "(@fixed top). whether one lies in the other depends on a random value: "
            "write the supports alike"
        ],
        "exclusive",
    ),
    Wrong(
        "observing", beta_binomial, observing, [f"the guide observes 'heads' (@observing). {ONLY}"]
    ),
    Wrong(
        "scoring",
        beta_binomial,
        scoring,
        [f"the guide scores by the factor 'penalty' (@scoring). {ONLY}"],
    ),
    Wrong(
        "an auxiliary choice that is not marked",
        beta_binomial,
        unmarked,
        [
            "the guide proposes 'u', which the model does not sample (@unmarked). "
            "leave it out, or mark it infer={'is_auxiliary': True}"
        ],
    ),
    Wrong(
        "a point for importance sampling",
        beta_binomial,
        at_a_point(0.5),
        [
            "at 'p' the guide proposes a single value where the model wants UnitInterval (@point). "
            "a point estimate fits only the exclusive direction (the ELBO)"
        ],
        "inclusive",
    ),
    Wrong(
        "a point outside",
        beta_binomial,
        at_a_point(1.5),
        [
            "at 'p' the guide proposes a value outside UnitInterval (@point). "
            "map the value into UnitInterval, for example with a constrained parameter"
        ],
        "exclusive",
    ),
    Wrong(
        "a point for a count",
        gamma_poisson,
        delta_for_a_count,
        [
            "at 'lost' the guide proposes a Delta where the model wants Nat (@delta for a count). "
            "propose a distribution on Nat"
        ],
        "exclusive",
    ),
    Wrong(
        "an image outside",
        beta_binomial,
        outside_image,
        [
            "at 'p' the guide proposes a value outside UnitInterval (@outside image). "
            "map the value into UnitInterval, for example with a constrained parameter"
        ],
    ),
]
# Sites of the models, for messages that show where the model is written.
MODEL_LINES = {
    "tau": 'def centred() -> None:\n    mu = sample("mu", dist.Normal(0.0, 5.0))\n    tau',
    "theta": '    with plate("school", 8):\n        theta',
    "state": '        state = sample("state", dist.Bernoulli(0.2',
    "scoped": '            sample("rain", dist.Bernoulli(0.2',
}


def placed(message: str) -> str:
    """The message with each ``@mark`` replaced by the place of the line that is marked."""
    if "(@" not in message:
        return message
    mark = message.split("(@")[1].split(")")[0]
    if mark in MODEL_LINES:
        text = "\n".join(SOURCE)
        line = text[: text.index(MODEL_LINES[mark])].count("\n") + MODEL_LINES[mark].count("\n") + 1
    else:
        (line,) = [i for i, text in enumerate(SOURCE, 1) if text.endswith(f"# {mark}")]
    return message.replace(f"(@{mark})", f"({__file__}:{line})")


@pytest.mark.parametrize("wrong", WRONG, ids=[w.name for w in WRONG])
def test_a_wrong_guide_is_refused_before_it_runs(wrong: Wrong) -> None:
    before = torch.get_rng_state()
    with pytest.raises(GuideError) as caught:
        check_guide(wrong.guide, wrong.model, direction=wrong.direction)
    head, message = str(caught.value).split(" is no guide for ")
    assert head == wrong.guide.__qualname__
    assert message == f"{wrong.model.__name__}: " + "\n".join(map(placed, wrong.said))
    assert torch.equal(before, torch.get_rng_state())


def branching() -> None:
    p = sample("p", dist.Beta(1.0, 1.0))
    if p > 0.5:  # branching
        sample("q", dist.Beta(1.0, 1.0))


def named_twice() -> None:
    sample("p", dist.Beta(1.0, 1.0))
    sample("p", dist.Beta(2.0, 1.0))  # named twice


def test_a_guide_that_branches_on_its_choice_has_no_type() -> None:
    with pytest.raises(BranchError) as caught:
        check_guide(branching, beta_binomial)
    assert str(caught.value) == placed(
        "Python looks at a random value (it depends on 'p') (@branching). "
        "use cond(...) or torch.where; replay interpretations can still run it"
    )


def test_a_guide_that_uses_a_name_twice_has_no_type() -> None:
    with pytest.raises(DuplicateNameError, match="the name is used twice") as caught:
        check_guide(named_twice, beta_binomial)
    assert placed("at site 'p' @").removesuffix("@") in str(caught.value)
    assert placed("(@named twice)")[1:] in str(caught.value)


# ------------------------------------------------------------------------------------------- right


def with_derived() -> None:
    p = sample("p", dist.Beta(1.0, 1.0))
    deterministic("odds", p / (1 - p))


def with_plates() -> None:
    hyper()
    with plate("guide's own name", 8):
        sample("theta", dist.Normal(0.0, 1.0))


def truncated_mean() -> None:
    sample("mu", dist.Gamma(2.0, 1.0))
    sample("tau", dist.Uniform(1.0, 2.0))
    sample("z", dist.Normal(torch.zeros(8), 1.0))


def dependent() -> None:
    sample("rate", dist.Normal(0.0, 1.0))
    sample("lost", dist.ImproperUniform(dist.constraints.integer, (), ()))


def marked() -> None:
    u = sample("u", dist.Normal(0.0, 1.0), infer=AUXILIARY)
    sample("p", dist.Delta(torch.sigmoid(u), log_density=-u))


def path() -> None:
    def step(state: Tensor, x: Tensor) -> tuple[Tensor, None]:
        return sample("state", dist.Categorical(torch.ones(2))), None

    sample("stay", dist.Uniform(0.0, 1.0))
    scan(step)(torch.tensor(0.0), torch.zeros(3))


def of_lanes() -> None:
    vmap(lambda a: sample("rate", dist.LogNormal(a, 1.0)))(torch.zeros(3))


def in_scopes() -> None:
    for day in ("tuesday", "monday"):
        with scope(day):
            sample("rain", dist.Categorical(torch.ones(2)))


def correlation() -> None:
    sample("factor", dist.LKJCholesky(2, 3.0))
    sample("scale", dist.LogNormal(torch.zeros(2), 1.0))


def double_precision() -> None:
    sample("w", dist.Normal(torch.zeros(3, dtype=torch.float64), 1.0))
    sample("noise", dist.LogNormal(torch.zeros((), dtype=torch.float64), 1.0))


def alike() -> None:
    top = sample("top", dist.LogNormal(0.0, 1.0))
    sample("x", dist.Uniform(0.0, top))


RIGHT: list[tuple[str, Callable[[], Any], Any, Any]] = [
    ("derived values", beta_binomial, with_derived, "both"),
    ("plates of other names", centred, with_plates, "both"),
    ("positive for real", non_centred, truncated_mean, "exclusive"),
    ("real for positive", gamma_poisson, dependent, "inclusive"),
    ("a point estimate", beta_binomial, at_a_point(0.5), "exclusive"),
    ("a marked auxiliary choice", beta_binomial, marked, "both"),
    ("a path by scan, Fin(2) for Bool", weather, path, "both"),
    ("lanes", lanes, of_lanes, "both"),
    ("scopes in another order", twice_scoped, in_scopes, "both"),
    ("a Cholesky factor", correlated, correlation, "both"),
    ("double precision for single", regression, double_precision, "both"),
    ("the model's own moving bound", moving, alike, "both"),
    ("categories", mixture, mixture_guide(THREE, dist.Categorical(torch.ones(3))), "both"),
    ("fewer categories", mixture, mixture_guide(THREE, dist.Bernoulli(0.5)), "exclusive"),
    ("more categories", mixture, mixture_guide(THREE, dist.Poisson(1.0)), "inclusive"),
    ("a smaller interval", beta_binomial, interval, "exclusive"),
    ("a wider interval", bounded, wide, "inclusive"),
]


@pytest.mark.parametrize(
    ("model", "guide", "direction"), [r[1:] for r in RIGHT], ids=[r[0] for r in RIGHT]
)
def test_a_right_guide_is_accepted(model: Any, guide: Any, direction: Any) -> None:
    latents = set(check_guide(guide, model, direction=direction).latents)
    assert latents >= {"p"} or model is not beta_binomial


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal])
@pytest.mark.parametrize("model", [centred, non_centred, logistic, correlated])
def test_the_autoguides_of_pyro_fit(auto: Any, model: Any) -> None:
    with pyro.get_param_store().scope():
        guide = auto(model)
        check_guide(guide, model)
        loss = pyro.infer.SVI(
            model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO()
        ).step()
        assert loss == loss


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal])
def test_the_autoguide_of_another_model_does_not_fit(auto: Any) -> None:
    with (
        pyro.get_param_store().scope(),
        pytest.raises(GuideError, match="does not propose 'theta'"),
    ):
        check_guide(auto(non_centred), centred)


def test_a_map_guide_fits_the_exclusive_direction_only() -> None:
    with pyro.get_param_store().scope():
        check_guide(AutoDelta(centred), centred, direction="exclusive")
        with pytest.raises(GuideError, match="at 'mu' the guide proposes a single value"):
            check_guide(AutoDelta(centred), centred)


def test_latents_may_be_left_out_where_the_model_proposes_them() -> None:
    check_guide(hyper, centred, partial=True)
    with pytest.raises(GuideError, match="'taau', which the model does not sample"):
        check_guide(misspelt, centred, partial=True)


def test_data_turn_latents_into_observations() -> None:
    given = condition(centred, {"theta": torch.zeros(8)})
    check_guide(hyper, given)
    with pytest.raises(GuideError, match="proposes 'theta', which the model observes"):
        check_guide(with_plates, given)


def test_a_density_is_no_guide_for_a_single_value() -> None:
    def fixed() -> None:
        sample("p", dist.Delta(torch.tensor(0.5)))

    check_guide(fixed, fixed)
    with pytest.raises(GuideError, match="where the model puts a single value"):
        check_guide(with_derived, fixed, direction="exclusive")


def test_there_are_three_directions() -> None:
    with pytest.raises(ValueError, match="the direction is one of exclusive, inclusive, both"):
        compatible(TraceType({}), TraceType({}), "forward")  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------- inclusion

REAL, POSITIVE = dist.Normal(0.0, 1.0), dist.Gamma(1.0, 1.0)
INCLUSIONS: list[tuple[Any, Any, bool | None, bool | None]] = [
    (POSITIVE, REAL, True, False),
    (dist.Pareto(2.0, 1.0), POSITIVE, True, False),
    (dist.Uniform(0.0, 1.0), dist.Beta(1.0, 1.0), True, True),
    (dist.Uniform(0.0, 1.0), POSITIVE, True, False),
    (dist.Uniform(-1.0, 1.0), POSITIVE, False, False),
    (dist.Uniform(torch.tensor([0.0, 1.0]), 3.0), dist.Uniform(0.0, 3.0), True, False),
    (dist.Uniform(torch.tensor([0.0, 1.0]), 3.0), POSITIVE, True, False),
    (dist.VonMises(0.0, 1.0), dist.Uniform(-torch.pi, torch.pi), True, True),
    (dist.Bernoulli(0.5), dist.Categorical(torch.ones(2)), True, True),
    (dist.Binomial(4, 0.5), dist.Poisson(1.0), True, False),
    (dist.Binomial(torch.tensor([3.0, 5.0]), 0.5), dist.Binomial(5, 0.5), True, False),
    (dist.Bernoulli(0.5), REAL, True, False),
    (dist.Bernoulli(0.5), POSITIVE, False, False),
    (dist.OneHotCategorical(torch.ones(3)), dist.Multinomial(1, torch.ones(3)), True, True),
    (dist.OneHotCategorical(torch.ones(3)), dist.Multinomial(2, torch.ones(3)), False, False),
    (dist.Dirichlet(torch.ones(3)), dist.Dirichlet(torch.ones(4)), False, False),
    (dist.Dirichlet(torch.ones(3)), REAL, False, False),
    (dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)), REAL, True, False),
    (
        dist.ImproperUniform(dist.constraints.positive_ordered_vector, (), (3,)),
        dist.ImproperUniform(dist.constraints.ordered_vector, (), (3,)),
        True,
        False,
    ),
    (dist.ImproperUniform(dist.constraints.less_than(0.0), (), ()), POSITIVE, False, False),
    (dist.ImproperUniform(dist.constraints.dependent, (), ()), REAL, None, None),
]


@pytest.mark.parametrize(("a", "b", "forward", "backward"), INCLUSIONS)
def test_inclusions(a: Any, b: Any, forward: bool | None, backward: bool | None) -> None:
    assert included(space_of(a), space_of(b)) is forward
    assert included(space_of(b), space_of(a)) is backward


def test_what_a_random_bound_leaves_open() -> None:
    top = Space("Interval", (0.0, None))
    assert included(top, Space("Positive")) is True
    assert included(top, Space("Interval", (-1.0, 1.0))) is None
    assert included(top, Space("Interval", (1.0, 2.0))) is False
    assert included(top, top) is None


def test_inclusion_agrees_with_membership() -> None:
    spaces = [space_of(d) for pair in INCLUSIONS for d in pair[:2]]
    known = [s for s in spaces if s.kind != "Unknown"]
    for inner in known:
        values = inner.random(50, seed=0)
        for outer in known:
            event = inner.shape[len(inner.batch_shape) :] == outer.shape[len(outer.batch_shape) :]
            if event and inner.batch_shape == outer.batch_shape and included(inner, outer):
                assert bool(torch.as_tensor(outer.contains(values)).all()), (inner, outer)


# -------------------------------------------------------------------------------------- algorithms


def test_importance_sampling_refuses_a_guide_before_it_draws() -> None:
    drawn: list[int] = []

    def counting() -> None:
        drawn.append(1)
        interval()

    before = torch.get_rng_state()
    with pytest.raises(
        GuideError, match=r"Interval\(0.25, 0.75\) where the model wants UnitInterval"
    ):
        simulate(importance(beta_binomial, 10, counting))
    assert torch.equal(before, torch.get_rng_state()) and len(drawn) == 1  # the abstract run


def test_importance_sampling_takes_wider_guides_and_auxiliary_choices() -> None:
    torch_default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        wanted = torch.tensor(1.0 / 11.0).log()
        for guide in (with_derived, image_by_sigmoid):
            population = simulate(importance(beta_binomial, 4000, guide), seed=0).value
            assert float(population.log_evidence() - wanted) == pytest.approx(0.0, abs=0.1)
    finally:
        torch.set_default_dtype(torch_default)


def image_by_sigmoid() -> None:
    u = sample("u", dist.Normal(0.0, 2.0), infer=AUXILIARY)
    p = torch.sigmoid(u)
    sample("p", dist.Delta(p, log_density=-(p * (1 - p)).log()))


def test_importance_sampling_asks_again_for_other_shapes() -> None:
    def model(n: int) -> None:
        sample("x", dist.Normal(torch.zeros(n), 1.0))

    def guide(n: int) -> None:
        sample("x", dist.Normal(torch.zeros(2), 1.0))

    program = importance(model, 5, guide)
    simulate(program, 2)
    with pytest.raises(GuideError, match=r"shape \[2\] where the model wants \[3\]"):
        simulate(program, 3)


def test_a_guide_error_is_a_program_error() -> None:
    assert issubclass(GuideError, ProgramError)
