"""The learner of the prior that episodes share."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from ...ppl.errors import located
from .curvature import Curvature, Net, Quadratic, quadratic
from .likelihoods import Categories, Likelihood
from .local import Global, Rule
from .program import episode_bound

Episode = tuple[Tensor, Tensor, Tensor, Tensor]  # inputs and targets: support, query
LARGEST = 4096  # parameters with a full covariance


class LocalPosterior(NamedTuple):
    """The normal law of the parameters of an episode: m [d], V [d] (a diagonal) or [d, d]."""

    m: Tensor
    V: Tensor


class NIWMeta:
    """Few-shot learning by a prior over parameters that was learnt from other episodes.

    Each episode is seen once: its loss is approximated by a quadratic, its posterior is solved for,
    its gradient moves the shared law, and nothing of it is kept.

    Args:
        model: a module, whose parameters are those of an episode; or net(theta, x), from parameters
            [d] and inputs [n, ...] to outputs [n, k], with ``start``.
        likelihood: ``Gaussian(variance)`` or ``Categories(k)``.
        params: "all", or which parameters of the module are random, by name.  Others are fixed.
        cov: "diag" or "full", of the shared law.
        inner_steps, inner_lr, curvature, ai_max: of ``quadratic``.  "exact" needs cov="full".
        n_mc: draws of theta for each episode.
        spread: the deviation of parameters about the start, at first; df: n0 at first, 3 more than
            its least unless given.
        lr: of Adam; batch: episodes for each step.
        start: the parameters [d] at first, of a function.
        device: of all tensors.

    Attributes:
        shared_ (m0, V0, n0 as a module), history_ (minus the bound, for each step).

    Errors:
        ValueError: a setting is out of range, or no parameter is chosen.
    """

    def __init__(
        self,
        model: nn.Module | Net,
        likelihood: Likelihood,
        params: Literal["all"] | Callable[[str], bool] = "all",
        cov: Literal["diag", "full"] = "diag",
        inner_steps: int = 3,
        inner_lr: float = 1e-2,
        curvature: Curvature = "swag",
        n_mc: int = 1,
        ai_max: float = 1e3,
        spread: float = 0.1,
        df: float | None = None,
        lr: float = 1e-2,
        batch: int = 16,
        start: Tensor | None = None,
        device: Any = None,
    ) -> None:
        if cov not in ("diag", "full") or curvature not in ("swag", "ggn", "exact"):
            what = f"cov={cov!r}, curvature={curvature!r}"
            raise ValueError(located(what, hint="cov: diag, full; curvature: swag, ggn, exact"))
        if curvature == "exact" and cov == "diag":
            raise ValueError(located("an exact curvature is a matrix", hint='take cov="full"'))
        least = {"inner_steps": inner_steps, "n_mc": n_mc, "batch": batch}
        above = {"inner_lr": inner_lr, "ai_max": ai_max, "spread": spread, "lr": lr}
        if min(least.values()) < 1 or not all(value > 0 for value in above.values()):
            raise ValueError(located(f"settings are positive: {least | above}"))
        if curvature == "swag" and inner_steps < 2:
            raise ValueError(located("iterates have no variance", hint="take inner_steps >= 2"))
        self.net, start = _function(model, params, start)
        if cov == "full" and len(start) > LARGEST:
            what = f"{len(start)} parameters are too many for a full covariance"
            raise ValueError(located(what, hint='take cov="diag"'))
        full, d = cov == "full", len(start)
        first = (d + 4.0 if full else 5.0) if df is None else df
        self.shared_ = Global(start.to(device), spread, first, full)
        self.likelihood, self.batch, self.n_mc, self.device = likelihood, batch, n_mc, device
        self._quadratic = {"steps": inner_steps, "lr": inner_lr, "most": ai_max}
        self.curvature: Curvature = curvature
        self._optimizer = torch.optim.Adam(self.shared_.parameters(), lr=lr)
        self.history_: list[float] = []

    def fit(self, episodes: Iterable[Episode], n_iter: int) -> NIWMeta:
        """Take ``n_iter`` steps, each on the next ``batch`` episodes, or end where there are none.

        Support and query of an episode [n, ...], [n] are data alike.  Episodes of a step are of
        the same sizes.

        Errors:
            ValueError: sizes differ, or targets of an episode have no density.
            FloatingPointError: a loss is not a number.
        """
        stream = iter(episodes)
        for step in range(n_iter):
            rows = list(itertools.islice(stream, self.batch))
            if not rows:
                break
            x = self._stacked([torch.cat((xs, xq)) for xs, _, xq, _ in rows])
            y = self._stacked([torch.cat((ys, yq)) for _, ys, _, yq in rows])
            for row in y:
                self.likelihood.check(row)
            bound = episode_bound(
                self.shared_, self.net, self.likelihood, self.quadratic(x, y), x, y
            )
            if self.n_mc == 1:
                value = bound.surrogate()
            else:
                value = bound.surrogates(self.n_mc).values.mean()
            if not bool(value.isfinite()):
                raise FloatingPointError(located(f"the bound of step {step} is not a number"))
            self._optimizer.zero_grad()
            (-value).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self.history_.append(-float(value.detach()))
        return self

    def quadratic(self, x: Tensor, y: Tensor) -> Quadratic:
        """The quadratic approximation of the losses of episodes x [E, n, ...], y [E, n]."""
        start = self.shared_.m0
        return quadratic(
            self.net,
            self.likelihood,
            start,
            x,
            y,
            self.curvature,
            **self._quadratic,  # type: ignore[arg-type]
        )

    def adapt(self, Xs: Tensor, ys: Tensor, rule: Rule = "mode") -> LocalPosterior:
        """The posterior of one new episode by its support [n, ...], [n].

        Without data it is the prior, with a warning.
        """
        found = self.adapt_all(Xs[None], ys[None], rule)
        return LocalPosterior(found.m[0], found.V[0])

    def adapt_all(self, Xs: Tensor, ys: Tensor, rule: Rule = "mode") -> LocalPosterior:
        """Those of episodes [E, n, ...], [E, n]: m [E, d], and V."""
        x, y = Xs.to(self.device), ys.to(self.device)
        with torch.no_grad():
            if y.shape[1] == 0:
                warnings.warn("an episode without data keeps the prior", stacklevel=2)
                m0 = self.shared_.m0
                loss = Quadratic(m0.expand(len(x), -1), m0.new_zeros(len(x), len(m0)))
                return LocalPosterior(*self.shared_.posterior(loss, rule))
            for row in y:
                self.likelihood.check(row)
            return LocalPosterior(*self.shared_.posterior(self.quadratic(x, y), rule))

    def predict(
        self, Xs: Tensor, ys: Tensor, Xq: Tensor, n_samples: int = 2, rule: Rule = "mode"
    ) -> Any:
        """Of queries [q, ...]: means and variances [q], or probabilities [q, k] of classes.

        They are averages over ``n_samples`` draws of the posterior.
        """
        if n_samples < 2:
            raise ValueError(located(f"predictions take two draws or more, not {n_samples}"))
        mean, variance = self.adapt(Xs, ys, rule)
        with torch.no_grad():
            if variance.ndim == 1:
                theta = mean + variance.sqrt() * torch.randn(n_samples, len(mean)).to(mean)
            else:
                noise = torch.randn(n_samples, len(mean)).to(mean)
                theta = mean + noise @ torch.linalg.cholesky(variance).mT
            query = Xq.to(self.device)
            outputs = torch.func.vmap(self.net, in_dims=(0, None))(theta, query)
            if isinstance(self.likelihood, Categories):
                return outputs.softmax(-1).mean(0)
            law = self.likelihood.law(outputs)
            return law.mean.mean(0), law.mean.var(0) + law.variance.mean(0)

    def _stacked(self, rows: list[Tensor]) -> Tensor:
        if len({row.shape for row in rows}) > 1:
            what = f"episodes of one step have sizes {sorted({len(row) for row in rows})}"
            raise ValueError(located(what, hint="take batch=1, or episodes of one size"))
        return torch.stack(rows).to(self.device)


def _function(
    model: nn.Module | Net, params: Literal["all"] | Callable[[str], bool], start: Tensor | None
) -> tuple[Net, Tensor]:
    """The model as a function of a vector of parameters, and that vector at first."""
    if not isinstance(model, nn.Module):
        if start is None:
            raise ValueError(located("a function has no parameters of its own", hint="give start="))
        return model, start
    everything = {name: p.detach().clone() for name, p in model.named_parameters()}
    names = [name for name in everything if params == "all" or (callable(params) and params(name))]
    if not names:
        what = f"no parameter of {type(model).__name__} is chosen"
        raise ValueError(located(what, hint=f"there are {', '.join(everything) or 'none'}"))
    shapes = [everything[name].shape for name in names]
    sizes = [shape.numel() for shape in shapes]

    def net(theta: Tensor, x: Tensor) -> Tensor:
        parts = zip(names, theta.split(sizes), shapes, strict=True)
        own = {name: part.reshape(shape) for name, part, shape in parts}
        return torch.func.functional_call(model, {**everything, **own}, (x,))  # type: ignore[no-any-return]

    return net, torch.cat([everything[name].flatten() for name in names])
