"""Objectives, each a few lines of the language.

p is the model with its data, unnormalised; q the guide; w = p(z) / q(z); lme the log of the mean of
exponentials.  All are maximised.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...ppl.distributions.strategies import reinforce, reparam
from ...ppl.errors import ObjectiveError, located
from ...ppl.language.program import Callback
from .divergences import Divergence, divergence
from .filtered import filtered_by
from .gradients.estimators import choose
from .gradients.replay import current
from .language.marginals import log_mean_exp, marginal, normalize
from .language.traces import Sampled, frozen, log_density, sample_trace
from .objective import objective


@objective
def elbo(model: Callback, guide: Any, *args: Any) -> Tensor:
    """E[log w], the evidence lower bound.

    Source: Jordan et al. (1999); Kingma, Welling (arXiv 1312.6114).
    """
    return _weighted(model, guide, args)[1]


@objective
def sticking_the_landing(model: Callback, guide: Any, *args: Any) -> Tensor:
    """E[log p(z) - log q(z)], the parameters held constant in log q: the ELBO and its derivative,
    without the score of the guide, whose mean is zero.

    Where the guide is the posterior, and its choices follow paths, the derivative has no noise.  A
    guide with such choices must be a ``torch.nn.Module`` without auxiliary choices.

    Source: Roeder, Wu, Duvenaud (arXiv 1703.09194).
    """
    trace = sample_trace(guide, *args)
    log_q = log_density(frozen(guide), trace.choices, *args)
    return log_density(model, trace.choices, *args) - log_q


def _count(particles: Any) -> int:
    """How many particles, which an argument of the model must not be taken for."""
    if isinstance(particles, bool) or not isinstance(particles, int) or particles < 1:
        what = f"there must be at least one particle, and not {particles!r:.40}"
        raise ObjectiveError(located(what, hint="give it after model and guide: iwelbo(p, q, 5)"))
    return particles


@objective
def iwelbo(model: Callback, guide: Any, particles: int, *args: Any) -> Tensor:
    """E[lme_k log w_k], the importance weighted bound of ``particles`` draws of the guide.

    Source: Burda, Grosse, Salakhutdinov (arXiv 1509.00519).
    """
    return log_mean_exp([_weighted(model, guide, args)[1] for _ in range(_count(particles))])


@objective
def hvi(
    model: Callback, guide: Callback, keep: str | Sequence[str], reverse: Callback, *args: Any
) -> Any:
    """The ELBO of a guide with auxiliary choices u: E[log p(z) + log r(u | z) - log q(u, z)].

    Args:
        keep: the choices z that the model has too.
        reverse: a program ``reverse(z, *args)`` that samples u.

    Source: Ranganath, Tran, Blei (arXiv 1511.02386).
    """
    return elbo(model, marginal(guide, keep, reverse), *args)


@objective
def iwhvi(
    model: Callback,
    guide: Callback,
    keep: str | Sequence[str],
    reverse: Callback,
    auxiliaries: int,
    *args: Any,
) -> Any:
    """E[log p(z) - lme_j log q(u_j, z) / r(u_j | z)], u_1 chosen with z and the others from r.

    Source: Sobolev, Vetrov (arXiv 1905.03290).
    """
    return elbo(model, marginal(guide, keep, reverse, auxiliaries), *args)


@objective
def diwhvi(
    model: Callback,
    guide: Callback,
    keep: str | Sequence[str],
    reverse: Callback,
    auxiliaries: int,
    particles: int,
    *args: Any,
) -> Any:
    """The importance weighted bound of ``particles`` draws, with the guide's density as in IWHVI.

    Source: Sobolev, Vetrov (arXiv 1905.03290).
    """
    return iwelbo(model, marginal(guide, keep, reverse, auxiliaries), particles, *args)


@objective
def wake_theta(model: Callback, guide: Callback, particles: int, *args: Any) -> Tensor:
    """E[log p(z)], z chosen by weight among ``particles`` draws of the guide: for the model.

    Source: Bornschein, Bengio (arXiv 1406.2751).
    """
    trace = sample_trace(frozen(normalize(model, guide, particles)), *args)
    return log_density(model, trace.choices, *args)


@objective
def wake_phi(model: Callback, guide: Callback, particles: int, *args: Any) -> Tensor:
    """E[log q(z)], z chosen by weight among ``particles`` draws of the guide: for the guide.

    Its derivative is that of -KL(p || q) as ``particles`` grows, and biased for it before.

    Source: Bornschein, Bengio (arXiv 1406.2751).
    """
    trace = sample_trace(frozen(normalize(model, guide, particles)), *args)
    return log_density(guide, trace.choices, *args)


@objective
def sleep_phi(model: Callback, guide: Callback, observed: Sequence[str], *args: Any) -> Tensor:
    """E[log q(z | x)], z and x from the model without data: for the guide.

    Args:
        guide: a program ``guide(*x, *args)``.
        observed: the names of the choices x of the model, in the order of the guide's arguments.

    Source: Hinton, Dayan, Frey, Neal (1995).
    """
    trace = sample_trace(frozen(model), *args)
    if missing := [name for name in observed if name not in trace.choices]:
        raise ObjectiveError(located(f"the model does not sample {missing}"))
    latents = {name: z for name, z in trace.choices.items() if name not in observed}
    return log_density(guide, latents, *(trace.choices[name] for name in observed), *args)


@objective
def reweighted_wake_sleep(model: Callback, guide: Callback, particles: int, *args: Any) -> Tensor:
    """wake_theta + wake_phi, from the same draws, averaged by their weights.

    Source: Bornschein, Bengio (arXiv 1406.2751); Le et al. (arXiv 1805.10469).
    """
    traces = [sample_trace(frozen(guide), *args) for _ in range(_count(particles))]
    log_p = torch.stack([log_density(model, trace.choices, *args) for trace in traces])
    log_q = torch.stack([log_density(guide, trace.choices, *args) for trace in traces])
    weights = (log_p - log_q).detach().softmax(0)
    return (weights * (log_p + log_q)).sum()


@objective
def vimco(model: Callback, guide: Any, particles: int, *args: Any) -> Tensor:
    """The importance weighted bound, each draw with a baseline of its own for its scores: the bound
    with the mean of the other log weights in place of its own.

    Source: Mnih, Rezende (arXiv 1602.06725).
    """
    if particles < 2:
        raise ObjectiveError(located("vimco needs at least two particles"))
    pairs = [_weighted(model, guide, args) for _ in range(_count(particles))]
    log_weights = [log_w for _, log_w in pairs]
    for k, (trace, _) in enumerate(pairs):
        others = [log_w for j, log_w in enumerate(log_weights) if j != k]
        trace.subtract(log_mean_exp([*others, torch.stack(others).mean()]).detach())
    return log_mean_exp(log_weights)


@objective
def renyi(model: Callback, guide: Any, alpha: float, particles: int, *args: Any) -> Tensor:
    """E[lme_k (1 - alpha) log w_k] / (1 - alpha): the ELBO at alpha = 1, IWELBO at 0.

    Source: Li, Turner (arXiv 1602.02311).
    """
    log_weights = [_weighted(model, guide, args)[1] for _ in range(_count(particles))]
    if alpha == 1.0:
        return torch.stack(log_weights).mean()
    return log_mean_exp([(1 - alpha) * log_w for log_w in log_weights]) / (1 - alpha)


@objective
def cubo(model: Callback, guide: Any, power: float, shift: float, *args: Any) -> Tensor:
    """-E[(w / exp(shift))^power]: largest where the chi upper bound log E[w^n] / n is least.

    The bound itself is a logarithm of an expected value, and has no unbiased estimate.

    Args:
        shift: about the log evidence, lest the power overflows.

    Source: Dieng et al. (arXiv 1611.00328).
    """
    return -torch.exp(power * (_weighted(model, guide, args)[1] - shift))


@objective
def forward_kl(
    model: Callback, guide: Any, proposal: Callback, particles: int, *args: Any
) -> Tensor:
    """E[log q(z) - log p(z)], z chosen by weight among draws of a proposal.

    That is -KL(p || q) less the log evidence, as ``particles`` grows.
    """
    trace = sample_trace(frozen(normalize(model, proposal, particles)), *args)
    log_p = log_density(frozen(model), trace.choices, *args)
    return log_density(guide, trace.choices, *args) - log_p


@objective
def symmetric_kl(
    model: Callback, guide: Any, proposal: Callback, particles: int, *args: Any
) -> Any:
    """-KL(q || p) - KL(p || q), the log evidence cancels; each from draws of its own."""
    reverse: Any = elbo(model, guide, *args)
    return reverse + forward_kl(model, guide, proposal, particles, *args)


@objective
def f_divergence(
    target: Callback, guide: Any, f: str | Divergence | Callable[[Tensor], Tensor], *args: Any
) -> Tensor:
    """-E[f(log w)]: minus the divergence of a target, which is normalised, from the guide.

    Args:
        f: a divergence or its name, such as "kl" for KL(p || q) and "reverse_kl" for KL(q || p); or
            a function of the logarithm of the ratio t = p / q: ``lambda l: -l`` is "reverse_kl".

    Source: Csiszar (1963).
    """
    log_t = _weighted(target, guide, args)[1]
    return -(divergence(f) if isinstance(f, str) else f)(log_t)


@objective
def fivo(
    step: Callback,
    proposal: Callback,
    particles: int,
    observations: Sequence[Any],
    *args: Any,
    ancestors: Callable[[Any], Any] = reinforce,
) -> Tensor:
    """E[sum_t lme_k log w_t^k]: the log evidence estimate of a particle filter.

    The filter resamples between all steps.  The scores of the ancestors are part of the derivative:
    it is biased where they are left out.

    Args:
        step: a program ``step(t, state, y, *args)`` of one step of the model, ``state`` None at
            first, with its observation of y.
        proposal: a program of the same arguments that samples the latents of the step, and returns
            the state.
        ancestors: the strategy of the ancestors, whose law is categorical.

    Source: Maddison et al. (arXiv 1705.09279); Naesseth et al. (arXiv 1705.11140).
    """
    about = step, proposal, particles, observations
    return filtered_by(*about, args, ancestors).log_evidence


@objective
def annealed(
    model: Callback,
    guide: Any,
    powers: Sequence[float],
    step_size: float | Tensor,
    *args: Any,
) -> Tensor:
    """The ELBO of a guide that is moved towards the model by Langevin steps, with their reversal.

    Step i moves z to Normal(z + e d log pi_i(z), sqrt(2 e)), pi_i = q^(1 - b_i) p^(b_i), and its
    reverse is the same step back: E[log p(z_T) - log q(z_0) + sum_i log r_i - log f_i].

    Args:
        powers: the b_i, rising to 1.
        step_size: e; may be a parameter.

    Source: Thin et al. (arXiv 2106.15921); Geffner, Domke (arXiv 2107.04150).
    """
    trace = sample_trace(guide, *args)
    choices, total = trace.choices, -trace.log_density
    scale = torch.as_tensor(2.0 * step_size).sqrt()

    def drift(z: dict[str, Tensor], power: float) -> dict[str, Tensor]:
        def log_pi(at: dict[str, Tensor]) -> Tensor:
            log_q = (1 - power) * log_density(guide, at, *args) if power < 1 else 0.0
            return power * log_density(model, at, *args) + log_q

        slopes = torch.func.grad(log_pi)(z)
        return {n: x + step_size * slopes[n] for n, x in z.items()}

    for i, power in enumerate(powers):
        forth = {n: dist.Normal(m, scale) for n, m in drift(choices, power).items()}
        run = current()
        moved = {
            n: choose(run, f"{n}@{i}", reparam(law.to_event(law.loc.ndim)))
            for n, law in forth.items()
        }
        back = {n: dist.Normal(m, scale) for n, m in drift(moved, power).items()}
        for name, law in forth.items():
            total = total + (back[name].log_prob(choices[name]) - law.log_prob(moved[name])).sum()
        choices = moved
    return total + log_density(model, choices, *args)


def _weighted(model: Callback, guide: Any, args: tuple[Any, ...]) -> tuple[Sampled, Tensor]:
    """A trace of the guide and its log weight."""
    trace = sample_trace(guide, *args)
    return trace, log_density(model, trace.choices, *args) - trace.log_density
