"""Networks with priors of functions, fitted to data and asked for predictions."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor

from ...inference import SGMCMC, SVI, predict, sghmc
from ...inference.results.arviz import r_hat
from ...inference.results.fit import Fit
from ...inference.vi import MeanField, elbo
from ...ppl import seeded
from ...ppl.errors import located
from .networks import Network
from .priors import NetworkPrior, prior_of
from .program import Classes, Likelihood, Normal, bnn, functions

Sampler = Literal["sghmc", "vi"]


class _Estimator:
    """What regression and classification share."""

    def __init__(
        self,
        net: Network,
        prior: NetworkPrior | str,
        likelihood: Likelihood,
        sampler: Sampler = "sghmc",
        lr: float = 0.01,
        friction: float = 0.01,
        batch: int = 32,
        burn_in: int = 2000,
        thin: int = 200,
        chains: int = 4,
        draws: int = 40,
        discard: int = 10,
        gibbs_every: int = 1000,
        steps: int = 2000,
        seed: int = 0,
    ) -> None:
        if sampler not in ("sghmc", "vi"):
            raise ValueError(located(f"sampler is 'sghmc' or 'vi', not {sampler!r}"))
        if steps < 1:
            raise ValueError(located(f"steps of SVI are positive, not {steps}"))
        self.net, self.prior, self.likelihood = net, prior_of(prior).bind(net), likelihood
        self.model = bnn(net, self.prior, likelihood)
        self.sampler, self.steps, self.seed = sampler, steps, seed
        self.driver = SGMCMC(
            sghmc(lr, friction),
            chains=chains,
            draws=draws,
            warmup=burn_in,
            thin=thin,
            discard=discard,
            batch=batch,
            gibbs=self.prior.conditional(),
            every=gibbs_every,
            progress=False,
        )
        self.fit_: Fit | None = None

    def _fitted(self, x: Tensor, y: Tensor) -> None:
        if x.ndim != 2 or x.shape[1] != self.net.inputs or y.shape != x.shape[:1]:
            what = (
                f"X is [N, {self.net.inputs}] and y [N]: they are {list(x.shape)}, {list(y.shape)}"
            )
            raise ValueError(located(what))
        if not bool(x.isfinite().all()):
            raise ValueError(located("X must be finite: leave out rows with NaN"))
        moving = [each for each in self.prior.parameters() if each.requires_grad]
        self.prior.requires_grad_(False)  # it is data here
        try:
            self.fit_ = self._posterior(x, y)
        finally:
            for each in moving:
                each.requires_grad_()
        self._at = x

    def _posterior(self, x: Tensor, y: Tensor) -> Fit:
        if self.sampler == "sghmc":
            return self.driver.run(self.model, x, y, size=len(y), seed=self.seed)
        with seeded(self.seed):
            guide = MeanField(self.model, x, y)
            optimizer = torch.optim.Adam(guide.parameters(), lr=0.01)
        svi: Any = SVI(elbo(self.model, guide), optimizer, progress=False)
        found = svi.run(x, y, steps=self.steps, seed=self.seed)
        fit: Fit = found.posterior(draws=self.driver.chains * self.driver.draws)
        return fit

    @property
    def fitted(self) -> Fit:
        """The fit, with its ``report`` and ``warnings()``.

        Errors:
            ValueError: there is none yet.
        """
        if self.fit_ is None:
            raise ValueError(located("there is no fit yet", hint="call fit(X, y)"))
        return self.fit_

    @property
    def samples_(self) -> dict[str, Tensor]:
        """Draws of the sites of the prior, [chains, draws, *shape]."""
        return {name: self.fitted[name] for name in self.fitted.latents}

    @property
    def rhat_(self) -> Tensor:
        """R-hat [N, K] of the values of the function at the training inputs.

        Weights have none that says much, since networks of exchanged units are equal.
        """
        draws = self.values(self._at)
        flat = draws.flatten(2).movedim(-1, 0)
        found = [r_hat(each.double().numpy()) for each in flat]
        return torch.tensor(found).reshape(draws.shape[2:])

    def values(self, x: Tensor) -> Tensor:
        """Draws [chains, draws, M, K] of the function at x [M, D]."""
        found: Tensor = predict(self.fitted, functions(self.net, self.prior), x).value
        return found


class BNNRegressor(_Estimator):
    """y ~ Normal(f(x), noise), f a network with weights from a prior.

    Args:
        prior: a prior, fitted or not, which stays as it is; or the name of its family.
        noise: the deviation of y; fixed, as in the source.
        sampler: "sghmc", which has a bias that ``fit_.report`` sizes; or "vi", a mean-field guide.
        lr, friction, batch, burn_in, thin, chains, draws, discard, gibbs_every: of ``SGMCMC``;
            steps: of SVI.

    Errors:
        ValueError: a setting is out of range.
    """

    def __init__(
        self, net: Network, prior: NetworkPrior | str, noise: float = 0.1, **settings: Any
    ) -> None:
        if net.outputs != 1:
            raise ValueError(located(f"regression has one output, and the network {net.outputs}"))
        super().__init__(net, prior, Normal(noise), **settings)
        self.noise = noise

    def fit(self, X: Tensor, y: Tensor) -> BNNRegressor:
        """X [N, D], y [N].

        Errors:
            ValueError: shapes do not fit, or a number is not finite.
            FloatingPointError: a loss is not finite; it names the transition.
        """
        if not bool(y.isfinite().all()):
            raise ValueError(located("y must be finite: leave out rows with NaN"))
        self._fitted(X, y)
        return self

    def predict(self, X: Tensor, return_std: bool = False) -> Any:
        """Means [M] at X [M, D]; with their deviations [M], of f and noise together, if asked."""
        f = self.values(X)[..., 0].flatten(0, 1)
        if not return_std:
            return f.mean(0)
        return f.mean(0), (f.var(0) + self.noise**2).sqrt()

    def score(self, X: Tensor, y: Tensor) -> tuple[float, float]:
        """Root mean squared error, and the mean of -log density of y [M], a mixture over draws."""
        f = self.values(X)[..., 0].flatten(0, 1)
        error = (f.mean(0) - y).square().mean().sqrt()
        logs = self.likelihood.law(f[..., None]).log_prob(y).logsumexp(0) - math.log(len(f))
        return float(error), -float(logs.mean())


class BNNClassifier(_Estimator):
    """y ~ Categorical(softmax(f(x))), f a network with weights from a prior.

    Args:
        As of ``BNNRegressor``.

    Errors:
        ValueError: a setting is out of range, or the network has one output.
    """

    def __init__(self, net: Network, prior: NetworkPrior | str, **settings: Any) -> None:
        if net.outputs < 2:
            raise ValueError(located("classification has two outputs or more, and the network 1"))
        super().__init__(net, prior, Classes(), **settings)

    def fit(self, X: Tensor, y: Tensor) -> BNNClassifier:
        """X [N, D], y [N] of classes 0 .. K - 1.

        Errors:
            ValueError: shapes do not fit, or a target is no class.
            FloatingPointError: a loss is not finite; it names the transition.
        """
        k = self.net.outputs
        if not bool(((y >= 0) & (y < k) & (y == y.round())).all()):
            raise ValueError(located(f"targets are classes 0 .. {k - 1}"))
        self._fitted(X, y)
        return self

    def predict_proba(self, X: Tensor) -> Tensor:
        """Probabilities [M, K] at X [M, D], means over draws."""
        found: Tensor = self.values(X).softmax(-1).mean((0, 1))
        return found

    def predict(self, X: Tensor, return_std: bool = False) -> Any:
        """The likeliest classes [M]; with the deviation of its probability over draws, if asked."""
        each = self.values(X).softmax(-1).flatten(0, 1)
        best = each.mean(0).argmax(-1)
        if not return_std:
            return best
        return best, each.std(0).gather(-1, best[:, None])[:, 0]
