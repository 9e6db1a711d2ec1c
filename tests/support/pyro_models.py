"""Pyro models as users write them: nothing in this file knows of any other library.

Each entry of ``EXAMPLES`` builds a model and its arguments under torch's current default dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.distributions import constraints
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, PyroParam, PyroSample
from pyro.ops.indexing import Vindex
from torch import Tensor, nn


class Example(NamedTuple):
    """A model, its arguments, and fixed values for its discrete latents."""

    model: Callable[..., Any]
    args: tuple[Any, ...] = ()
    discrete: dict[str, Tensor] = {}


def wave(*shape: int, scale: float = 1.0) -> Tensor:
    """Numbers without a pattern that matters, the same on every machine."""
    return scale * torch.sin(1.7 * torch.arange(1.0, 1.0 + math.prod(shape))).reshape(shape)


# ------------------------------------------------------------------------------------- regression


class BayesianRegression(PyroModule):
    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.linear = PyroModule[nn.Linear](in_features, out_features)
        self.linear.weight = PyroSample(
            dist.Normal(0.0, 1.0).expand([out_features, in_features]).to_event(2)
        )
        self.linear.bias = PyroSample(dist.Normal(0.0, 10.0).expand([out_features]).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        sigma = pyro.sample("sigma", dist.Uniform(0.0, 10.0))
        mean = self.linear(x).squeeze(-1)
        with pyro.plate("data", x.shape[0]):
            pyro.sample("obs", dist.Normal(mean, sigma), obs=y)
        return mean


def logistic_regression(x: Tensor, y: Tensor) -> Tensor:
    n, p = x.shape
    coefs = pyro.sample("beta", dist.Normal(torch.zeros(p), torch.ones(p)).to_event(1))
    intercept = pyro.sample("intercept", dist.Normal(0.0, 5.0))
    logits = x @ coefs + intercept
    with pyro.plate("data", n):
        return pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def poisson_regression(x: Tensor, exposure: Tensor, counts: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.5))
    b = pyro.sample("b", dist.Normal(0.0, 0.5))
    with pyro.plate("obs", len(counts)):
        rate = torch.exp(exposure.log() + a + b * x)
        pyro.sample("counts", dist.Poisson(rate), obs=counts)


def horseshoe_regression(x: Tensor, y: Tensor) -> Tensor:
    n, p = x.shape
    tau = pyro.sample("tau", dist.HalfCauchy(torch.tensor(0.1)))
    with pyro.plate("features", p):
        lam = pyro.sample("lambda", dist.HalfCauchy(torch.tensor(1.0)))
        unscaled = pyro.sample("unscaled_beta", dist.Normal(0.0, 1.0))
    beta = pyro.deterministic("beta", tau * lam * unscaled)
    prec = pyro.sample("prec_obs", dist.Gamma(3.0, 1.0))
    sigma = 1.0 / torch.sqrt(prec)
    with pyro.plate("data", n):
        pyro.sample("Y", dist.Normal(x.matmul(beta), sigma), obs=y)
    return beta


def ordinal_regression(x: Tensor, y: Tensor, num_classes: int) -> None:
    coef = pyro.sample("coef", dist.Normal(0.0, 1.0))
    base = dist.Normal(torch.zeros(num_classes - 1), 2.0).to_event(1)
    transform = dist.transforms.OrderedTransform()
    cutpoints = pyro.sample("cutpoints", dist.TransformedDistribution(base, [transform]))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.OrderedLogistic(coef * x, cutpoints), obs=y)


# ----------------------------------------------------------------------------------- hierarchical


def eight_schools(sigma: Tensor, y: Tensor) -> Tensor:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    tau = pyro.sample("tau", dist.HalfCauchy(scale=25.0 * torch.ones(())))
    with pyro.plate("J", len(sigma)):
        eta = pyro.sample("eta", dist.Normal(torch.zeros(1), torch.ones(1)))
        theta = mu + tau * eta
        pyro.sample("obs", dist.Normal(theta, sigma), obs=y)
    return theta


@poutine.reparam(config={"school": LocScaleReparam(0.0)})
def reparametrized_schools(sigma: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with pyro.plate("schools", len(sigma)):
        school = pyro.sample("school", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(school, sigma), obs=y)


def radon(county: Tensor, floor: Tensor, log_radon: Tensor | None = None) -> None:
    n_counties = int(county.max()) + 1
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 1.0))
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfCauchy(1.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    with pyro.plate("counties", n_counties):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
    sigma = pyro.sample("sigma", dist.Exponential(1.0))
    with pyro.plate("houses", len(county)):
        mean = alpha[county] + beta * floor
        pyro.sample("log_radon", dist.Normal(mean, sigma), obs=log_radon)


def item_response_2pl(student: Tensor, item: Tensor, correct: Tensor) -> None:
    with pyro.plate("students", int(student.max()) + 1):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with pyro.plate("items", int(item.max()) + 1):
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 2.0))
        slope = pyro.sample("slope", dist.LogNormal(0.0, 0.5))
    with pyro.plate("responses", len(correct)):
        logits = slope[item] * (ability[student] - difficulty[item])
        pyro.sample("correct", dist.Bernoulli(logits=logits), obs=correct)


def lkj_multivariate(y: Tensor) -> Tensor:
    n, d = y.shape
    theta = pyro.sample("theta", dist.HalfCauchy(torch.ones(d)).to_event(1))
    corr = pyro.sample("L_omega", dist.LKJCholesky(d, torch.ones(())))
    scale_tril = torch.mm(torch.diag(theta.sqrt()), corr)
    mu = pyro.sample("mu", dist.Normal(torch.zeros(d), 3.0).to_event(1))
    with pyro.plate("observations", n):
        return pyro.sample("obs", dist.MultivariateNormal(mu, scale_tril=scale_tril), obs=y)


# --------------------------------------------------------------------------- mixtures and topics


def gaussian_mixture(data: Tensor, num_components: int = 2) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(0.5 * torch.ones(num_components)))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 2.0))
    with pyro.plate("components", num_components):
        locs = pyro.sample("locs", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(data)):
        assignment = pyro.sample("assignment", dist.Categorical(weights))
        pyro.sample("obs", dist.Normal(locs[assignment], scale), obs=data)


def marginal_mixture(data: Tensor) -> None:
    k = 3
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(k)))
    with pyro.plate("components", k):
        locs = pyro.sample("locs", dist.Normal(0.0, 5.0))
        scales = pyro.sample("scales", dist.Gamma(2.0, 2.0))
    mixture = dist.MixtureSameFamily(dist.Categorical(weights), dist.Normal(locs, scales))
    with pyro.plate("data", len(data)):
        pyro.sample("obs", mixture, obs=data)


def latent_dirichlet_allocation(docs: Tensor, num_topics: int, num_words: int) -> None:
    num_docs, doc_length = docs.shape
    with pyro.plate("topics", num_topics):
        topic_weights = pyro.sample("topic_weights", dist.Gamma(1.0 / num_topics, 1.0))
        topic_words = pyro.sample("topic_words", dist.Dirichlet(torch.ones(num_words) / num_words))
    with pyro.plate("documents", num_docs):
        doc_topics = pyro.sample("doc_topics", dist.Dirichlet(topic_weights))
        with pyro.plate("words", doc_length):
            word_topics = pyro.sample("word_topics", dist.Categorical(doc_topics))
            pyro.sample("doc_words", dist.Categorical(topic_words[word_topics]), obs=docs.t())


# ------------------------------------------------------------------------------------ time series


def hidden_markov_model(sequence: Tensor, hidden_dim: int) -> None:
    transition = pyro.sample(
        "probs_x",
        dist.Dirichlet(0.9 * torch.eye(hidden_dim) + 0.1).to_event(1),
    )
    with pyro.plate("states", hidden_dim):
        emission = pyro.sample("probs_y", dist.Beta(2.0, 3.0))
    x = 0
    for t in pyro.markov(range(len(sequence))):
        x = pyro.sample(f"x_{t}", dist.Categorical(transition[x]), infer={"enumerate": "parallel"})
        pyro.sample(f"y_{t}", dist.Bernoulli(emission[x]), obs=sequence[t])


def batched_hidden_markov_model(sequences: Tensor, lengths: Tensor, hidden_dim: int) -> None:
    num_sequences, max_length, data_dim = sequences.shape
    with poutine.mask(mask=True):
        probs_x = pyro.sample(
            "probs_x", dist.Dirichlet(0.9 * torch.eye(hidden_dim) + 0.1).to_event(1)
        )
        probs_y = pyro.sample(
            "probs_y", dist.Beta(0.1, 0.9).expand([hidden_dim, data_dim]).to_event(2)
        )
    tones_plate = pyro.plate("tones", data_dim, dim=-1)
    with pyro.plate("sequences", num_sequences, dim=-2) as batch:
        x = torch.zeros(num_sequences, 1, dtype=torch.long)
        for t in range(max_length):
            with poutine.mask(mask=(t < lengths[batch]).unsqueeze(-1)):
                x = pyro.sample(f"x_{t}", dist.Categorical(probs_x[x]))
                with tones_plate as tones:
                    pyro.sample(
                        f"y_{t}",
                        dist.Bernoulli(Vindex(probs_y)[x, tones]),
                        obs=sequences[batch, t],
                    )


def stochastic_volatility(returns: Tensor) -> None:
    step = pyro.sample("sigma", dist.Exponential(50.0))
    nu = pyro.sample("nu", dist.Exponential(0.1))
    with pyro.plate("time", len(returns)):
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0))
    volatility = pyro.deterministic("s", (step * noise).cumsum(-1), event_dim=1)
    with pyro.plate("returns", len(returns)):
        pyro.sample("r", dist.StudentT(nu, 0.0, torch.exp(volatility)), obs=returns)


def autoregressive(y: Tensor, order: int = 2) -> None:
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    with pyro.plate("lags", order):
        phi = pyro.sample("phi", dist.Uniform(-1.0, 1.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    for t in range(order, len(y)):
        mean = alpha
        for k in range(order):
            mean = mean + phi[k] * y[t - k - 1]
        pyro.sample(f"y_{t}", dist.Normal(mean, sigma), obs=y[t])


def local_level(y: Tensor) -> Tensor:
    drift_scale = pyro.sample("drift_scale", dist.LogNormal(-2.0, 1.0))
    noise_scale = pyro.sample("noise_scale", dist.LogNormal(-1.0, 1.0))
    level = pyro.sample("level_0", dist.Normal(0.0, 1.0))
    levels = [level]
    for t in pyro.markov(range(1, len(y))):
        level = pyro.sample(f"level_{t}", dist.Normal(level, drift_scale))
        levels.append(level)
    path = torch.stack(levels)
    pyro.sample("y", dist.Normal(path, noise_scale).to_event(1), obs=y)
    return path


# ------------------------------------------------------------------------ Gaussian processes, nets


def gaussian_process(x: Tensor, y: Tensor) -> None:
    variance = pyro.sample("kernel_var", dist.LogNormal(0.0, 10.0))
    noise = pyro.sample("kernel_noise", dist.LogNormal(0.0, 10.0))
    length = pyro.sample("kernel_length", dist.LogNormal(0.0, 10.0))
    distance = ((x[:, None] - x[None, :]) / length) ** 2
    kernel = variance * torch.exp(-0.5 * distance) + (noise + 1e-6) * torch.eye(len(x))
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(x)), kernel), obs=y)


def gaussian_process_module(x: Tensor, y: Tensor) -> Callable[..., Any]:
    kernel = gp.kernels.RBF(input_dim=1)
    regression = gp.models.GPRegression(x, y, kernel, noise=torch.tensor(1.0))
    kernel.lengthscale = PyroSample(dist.LogNormal(torch.zeros(()), torch.ones(())))
    kernel.variance = PyroSample(dist.LogNormal(torch.zeros(()), torch.ones(())))
    return regression.model  # type: ignore[no-any-return]


class VariationalAutoencoder(nn.Module):
    def __init__(self, x_dim: int, z_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.z_dim = z_dim
        self.decoder = nn.Sequential(
            nn.Linear(z_dim, hidden_dim),
            nn.Softplus(),
            nn.Linear(hidden_dim, x_dim),
            nn.Sigmoid(),
        )

    def model(self, x: Tensor) -> Tensor:
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", x.shape[0]):
            z_loc = x.new_zeros(torch.Size((x.shape[0], self.z_dim)))
            z_scale = x.new_ones(torch.Size((x.shape[0], self.z_dim)))
            z = pyro.sample("latent", dist.Normal(z_loc, z_scale).to_event(1))
            loc_img: Tensor = self.decoder(z)
            pyro.sample("obs", dist.Bernoulli(loc_img, validate_args=False).to_event(1), obs=x)
            return loc_img


class BayesianNetwork(PyroModule):
    def __init__(self, hidden: int, scale: float = 2.0) -> None:
        super().__init__()
        self.layer1 = PyroModule[nn.Linear](1, hidden)
        self.layer1.weight = PyroSample(dist.Normal(0.0, scale).expand([hidden, 1]).to_event(2))
        self.layer1.bias = PyroSample(dist.Normal(0.0, scale).expand([hidden]).to_event(1))
        self.layer2 = PyroModule[nn.Linear](hidden, 1)
        self.layer2.weight = PyroSample(dist.Normal(0.0, scale).expand([1, hidden]).to_event(2))
        self.log_noise = PyroParam(torch.tensor(-1.0))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        hidden = torch.tanh(self.layer1(x.reshape(-1, 1)))
        mu = self.layer2(hidden).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("obs", dist.Normal(mu, F.softplus(self.log_noise)), obs=y)
        return mu


# ------------------------------------------------------- weights, plates, parameters, control flow


def censored_survival(time: Tensor, event: Tensor, x: Tensor) -> None:
    shape = pyro.sample("shape", dist.Gamma(2.0, 1.0))
    beta = pyro.sample("beta", dist.Normal(0.0, 1.0))
    scale = torch.exp(beta * x)
    seen = event.bool()
    with pyro.plate("events", int(seen.sum())):
        pyro.sample("time", dist.Weibull(scale[seen], shape), obs=time[seen])
    survival = -((time[~seen] / scale[~seen]) ** shape)
    pyro.factor("censored", survival.sum())


def masked_and_scaled(y: Tensor, present: Tensor, total: int) -> None:
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    with (
        poutine.scale(scale=total / len(y)),
        pyro.plate("data", len(y)),
        poutine.mask(mask=present),
    ):
        scale = pyro.sample("scale", dist.LogNormal(0.0, 1.0))
        pyro.sample("y", dist.Laplace(loc, scale), obs=y)


def minibatch(x: Tensor, y: Tensor, batch: Tensor | None = None, size: int | None = None) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=size, subsample=batch) as index:
        noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
        pyro.sample("y", dist.Normal(w * x[index], noise), obs=y[index])


def missing_data(y: Tensor, lags: Tensor) -> None:
    n = lags.max()
    loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    scale = pyro.sample("scale", dist.HalfNormal(1.0))
    if y[0] > 0:
        loc = loc + pyro.sample("shift", dist.Exponential(1.0))
    for i in range(int(n)):
        pyro.sample(f"lag_{i}", dist.Normal(loc, scale + i), obs=lags[i])
    complete = y[~torch.isnan(y)]
    with pyro.plate("complete", len(complete)):
        pyro.sample("y", dist.Normal(loc, scale), obs=complete)


def imputed_data(y: Tensor) -> Tensor:
    loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
    missing = torch.isnan(y)
    with pyro.plate("missing", int(missing.sum())):
        imputed = pyro.sample("imputed", dist.Normal(loc, 1.0))
    filled = y.clone()
    filled[missing] = imputed
    for t in range(1, len(y)):
        pyro.sample(f"y_{t}", dist.Normal(loc + 0.5 * filled[t - 1], 1.0), obs=filled[t])
    return filled


def learnable_prior(y: Tensor) -> Tensor:
    loc = pyro.param("prior_loc", torch.tensor(0.5))
    scale = pyro.param("prior_scale", torch.tensor(2.0), constraint=constraints.positive)
    mix = pyro.param("mix", lambda: torch.ones(3) / 3, constraint=constraints.simplex)
    z = pyro.sample("z", dist.Normal(loc, scale))
    with pyro.plate("data", len(y)):
        components = dist.Normal(z + torch.arange(3.0), 1.0)
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(mix), components), obs=y)
    return z


def change_point(counts: Tensor) -> None:
    early = pyro.sample("early", dist.Exponential(1.0))
    late = pyro.sample("late", dist.Exponential(1.0))
    tau = pyro.sample("tau", dist.Uniform(0.0, 1.0))
    for t in range(len(counts)):
        rate = early if t / len(counts) < tau else late
        pyro.sample(f"count_{t}", dist.Poisson(rate), obs=counts[t])


def geometric(p: Tensor, t: int = 0) -> int:
    if pyro.sample(f"x_{t}", dist.Bernoulli(p)).item() == 1:
        return 0
    return 1 + geometric(p, t + 1)


def random_length(y: Tensor) -> None:
    n = pyro.sample("n", dist.Poisson(3.0))
    total = torch.zeros(())
    for i in range(int(n)):
        total = total + pyro.sample(f"jump_{i}", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(total, 1.0), obs=y)


def sprinkler() -> Tensor:
    rain = pyro.sample("rain", dist.Bernoulli(0.25))
    on = pyro.sample("sprinkler", dist.Bernoulli(torch.tensor([0.5, 0.125])[rain.long()]))
    wet = torch.tensor([[0.0, 0.75], [0.5, 1.0]])[rain.long(), on.long()]
    pyro.sample("wet", dist.Bernoulli(wet), obs=torch.tensor(1.0))
    return rain


def weather(walks: list[int]) -> Tensor:
    transition = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    walking = torch.tensor([0.5, 0.125])
    x = torch.tensor(0)
    for t in pyro.markov(range(len(walks))):
        x = pyro.sample(f"x_{t}", dist.Categorical(transition[x]))
        pyro.sample(f"y_{t}", dist.Bernoulli(walking[x]), obs=torch.tensor(float(walks[t])))
    return x


# --------------------------------------------------------------------------------------- the table


SIGMA = [15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0]
EFFECT = [28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0]
COUNTY = [0, 0, 1, 1, 1, 2, 3]


def schools() -> tuple[Tensor, Tensor]:
    return torch.tensor(SIGMA), torch.tensor(EFFECT)


def network_inputs() -> tuple[Tensor, Tensor]:
    return torch.linspace(-1, 1, 6), wave(6)


EXAMPLES: dict[str, Callable[[], Example]] = {
    "bayesian_regression": lambda: Example(BayesianRegression(3, 1), (wave(5, 3), wave(5))),
    "logistic_regression": lambda: Example(logistic_regression, (wave(6, 2), (wave(6) > 0) * 1.0)),
    "poisson_regression": lambda: Example(
        poisson_regression,
        (wave(5), 1.0 + wave(5) ** 2, torch.tensor([0.0, 2.0, 1.0, 3.0, 0.0])),
    ),
    "horseshoe_regression": lambda: Example(horseshoe_regression, (wave(6, 4), wave(6))),
    "ordinal_regression": lambda: Example(
        ordinal_regression, (wave(5), torch.tensor([0, 1, 2, 3, 1]), 4)
    ),
    "eight_schools": lambda: Example(eight_schools, schools()),
    "reparametrized_schools": lambda: Example(reparametrized_schools, schools()),
    "radon": lambda: Example(radon, (torch.tensor(COUNTY), (wave(7) > 0) * 1.0, wave(7))),
    "item_response_2pl": lambda: Example(
        item_response_2pl,
        (torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 1, 0, 1]), (wave(5) > 0) * 1.0),
    ),
    "lkj_multivariate": lambda: Example(lkj_multivariate, (wave(5, 3),)),
    "gaussian_mixture": lambda: Example(
        gaussian_mixture,
        (torch.tensor([0.0, 1.0, 10.0, 11.0, 12.0]),),
        {"assignment": torch.tensor([0, 0, 1, 1, 0])},
    ),
    "marginal_mixture": lambda: Example(marginal_mixture, (wave(6, scale=4.0),)),
    "latent_dirichlet_allocation": lambda: Example(
        latent_dirichlet_allocation,
        (torch.arange(8).reshape(2, 4) % 5, 3, 5),
        {"word_topics": torch.arange(8).reshape(4, 2) % 3},
    ),
    "hidden_markov_model": lambda: Example(
        hidden_markov_model,
        (torch.tensor([1.0, 0.0, 0.0, 1.0]), 3),
        {f"x_{t}": torch.tensor(x) for t, x in enumerate([0, 2, 1, 1])},
    ),
    "batched_hidden_markov_model": lambda: Example(
        batched_hidden_markov_model,
        ((wave(2, 3, 4) > 0) * 1.0, torch.tensor([3, 2]), 2),
        {f"x_{t}": torch.tensor([[t % 2], [1]]) for t in range(3)},
    ),
    "stochastic_volatility": lambda: Example(stochastic_volatility, (wave(6, scale=0.02),)),
    "autoregressive": lambda: Example(autoregressive, (wave(6),)),
    "local_level": lambda: Example(local_level, (wave(4),)),
    "gaussian_process": lambda: Example(gaussian_process, network_inputs()),
    "gaussian_process_module": lambda: Example(gaussian_process_module(*network_inputs())),
    "variational_autoencoder": lambda: Example(
        VariationalAutoencoder(5, 2, 4).model, ((wave(3, 5) > 0) * 1.0,)
    ),
    "bayesian_network": lambda: Example(BayesianNetwork(4), network_inputs()),
    "censored_survival": lambda: Example(
        censored_survival, (1.0 + wave(5) ** 2, torch.tensor([1, 0, 1, 1, 0]), wave(5))
    ),
    "masked_and_scaled": lambda: Example(masked_and_scaled, (wave(4), wave(4) > -0.5, 100)),
    "minibatch": lambda: Example(minibatch, (wave(9), wave(9), torch.tensor([1, 4, 8]))),
    "missing_data": lambda: Example(
        missing_data, (torch.tensor([0.5, math.nan, -1.0]), torch.tensor([1.0, 2.0]))
    ),
    "imputed_data": lambda: Example(imputed_data, (torch.tensor([0.5, math.nan, -1.0, math.nan]),)),
    "learnable_prior": lambda: Example(learnable_prior, (wave(4),)),
    "change_point": lambda: Example(change_point, (torch.tensor([4.0, 5.0, 1.0, 0.0]),)),
    "geometric": lambda: Example(geometric, (torch.tensor(0.5),)),
    "random_length": lambda: Example(random_length, (torch.tensor(1.0),)),
    "random_minibatch": lambda: Example(minibatch, (wave(9), wave(9), None, 3)),
}
