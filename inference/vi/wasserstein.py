"""Wasserstein distances of laws that are known by draws: by a critic, and of normals exactly.

Arjovsky, Chintala and Bottou, arXiv 1701.07875; the penalty by Gulrajani et al., arXiv 1704.00028:

    W1(p, q) = sup E_p phi - E_q phi  over phi with slopes of length 1 at most,

where phi is a network, and slopes are asked to have length one between draws of p and q.  The
penalty is soft, so that they become longer: by W1 / 20 of their length for laws that are shifted.
An estimate is therefore divided by the largest slope, and is then a bound from below, as far as
slopes between draws tell.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import softplus

from ...ppl import draw, vmap
from ...ppl.errors import located
from ...ppl.language.program import Callback

Penalty = Literal["two-sided", "one-sided"]


class Critic:
    """phi: a network [..., M] -> [...] with softplus between layers, and its slope in closed form.

    Weights are normal with variance 2 / (n_in + n_out), biases standard normal.
    """

    def __init__(self, size: int, width: int = 200, hidden: int = 2, like: Tensor | None = None):
        zero = torch.zeros(()) if like is None else like.new_zeros(())
        normal = dist.Normal(zero, torch.ones_like(zero), validate_args=False)
        sizes = [size, *[width] * hidden, 1]
        self.weights, self.biases = list[Tensor](), list[Tensor]()
        for a, b in itertools.pairwise(sizes):
            weight = math.sqrt(2 / (a + b)) * draw(normal, (a, b), label="critic")
            self.weights.append(weight.requires_grad_())
            self.biases.append(draw(normal, (b,), label="critic").requires_grad_())

    @property
    def parameters(self) -> list[Tensor]:
        return [*self.weights, *self.biases]

    def __call__(self, f: Tensor) -> Tensor:
        """phi [...] at f [..., M]."""
        return self._layers(f, self.parameters)[0][..., 0]

    def frozen(self, f: Tensor) -> Tensor:
        """The same, with derivatives in f alone."""
        return self._layers(f, [each.detach() for each in self.parameters])[0][..., 0]

    def turn(self) -> None:
        """Change the sign of the slope, as likely at first as not."""
        with torch.no_grad():
            self.weights[-1].neg_()

    def slope(self, f: Tensor) -> Tensor:
        """d phi / d f [..., M]: the layers backward, by their weights turned round."""
        _, pushes = self._layers(f, self.parameters)
        found = self.weights[-1][:, 0].expand(*f.shape[:-1], -1)
        for weight, push in zip(reversed(self.weights[:-1]), reversed(pushes), strict=True):
            found = (found * torch.sigmoid(push)) @ weight.mT
        return found

    def _layers(self, f: Tensor, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        n = len(self.weights)
        h, pushes = f, list[Tensor]()
        for k, (weight, bias) in enumerate(zip(parameters[:n], parameters[n:], strict=True)):
            h = h @ weight + bias
            if k < n - 1:
                pushes.append(h)
                h = softplus(h)
        return h, pushes


def apart(phi: Callable[[Tensor], Tensor], p: Tensor, q: Tensor) -> Tensor:
    """E_p phi - E_q phi [] by draws [S, M], or [S, K, M] of K vectors, over which it is summed."""
    found: Tensor = (phi(p).mean(0) - phi(q).mean(0)).sum()
    return found


@dataclass(frozen=True)
class Fitting:
    """How a critic is fitted: steps of Adagrad, by all draws at each.

    Args:
        rate: of Adagrad; penalty: the weight of (|slope| - 1)^2.
        sides: "two-sided", or "one-sided", which lets slopes be shorter than 1.
        width, hidden: of the network.
        enough: the norm of the gradient below which it ends.

    Errors:
        ValueError: a setting is out of range.
    """

    steps: int = 200
    rate: float = 0.02
    penalty: float = 10.0
    sides: Penalty = "two-sided"
    width: int = 200
    hidden: int = 2
    enough: float = 0.1

    def __post_init__(self) -> None:
        if self.sides not in get_args(Penalty):
            raise ValueError(
                located(f"a penalty is one of {get_args(Penalty)}, not {self.sides!r}")
            )
        positive = {"steps": self.steps, "rate": self.rate, "width": self.width}
        positive |= {"penalty": self.penalty, "hidden": self.hidden}
        if min(positive.values()) <= 0 or self.enough < 0:
            raise ValueError(located(f"settings of a critic are positive: {positive}"))

    def loss(self, critic: Critic, p: Tensor, q: Tensor, share: Tensor) -> Tensor:
        """-(E_p phi - E_q phi) + penalty, with slopes at share p + (1 - share) q."""
        lengths = critic.slope(share * p + (1.0 - share) * q).norm(dim=-1) - 1.0
        if self.sides == "one-sided":
            lengths = lengths.clamp(min=0.0)
        found: Tensor = self.penalty * lengths.square().mean(0).sum() - apart(critic, p, q)
        return found

    def fitted(self, p: Tensor, q: Tensor) -> Critic:
        """A critic for draws p and q, both [S, M], or [S, K, M].

        Errors:
            ValueError: shapes differ.
            FloatingPointError: the loss is not finite; it names the step.
        """
        if p.shape != q.shape or p.ndim < 2:
            what = f"draws of two laws have shapes {list(p.shape)} and {list(q.shape)}"
            raise ValueError(located(what, hint="give as many of both: [draws, M]"))
        critic = Critic(p.shape[-1], self.width, self.hidden, p)
        if float(apart(critic.frozen, p, q)) < 0:  # the penalty would keep a slope of wrong sign
            critic.turn()
        optimizer = torch.optim.Adagrad(critic.parameters, lr=self.rate)
        zero = p.new_zeros(())
        uniform = dist.Uniform(zero, torch.ones_like(zero), validate_args=False)
        for step in range(self.steps):
            share = draw(uniform, (*p.shape[:-1], 1), label="between")
            loss = self.loss(critic, p, q, share)
            slopes = torch.autograd.grad(loss, critic.parameters)
            norm = torch.stack([slope.square().sum() for slope in slopes]).sum().sqrt()
            if not bool(loss.isfinite() & norm.isfinite()):
                what = f"the loss of a critic is not finite at step {step + 1}"
                raise FloatingPointError(located(what, hint="scale the values, or lower its rate"))
            if float(norm) < self.enough:
                break
            for each, slope in zip(critic.parameters, slopes, strict=True):
                each.grad = slope
            optimizer.step()
        return critic


def wasserstein1(
    p: Callback, q: Callback, *args: Any, draws: int = 512, fitting: Fitting | None = None
) -> Tensor:
    """An estimate [] of W1 between the results of two programs, which are vectors [M].

    Its derivative in what the programs are made of is that of E_p phi - E_q phi with phi fixed, by
    new draws: the derivative of the distance, if phi is the best critic (Danskin).  Draws are made
    along paths (``rsample``), so that all choices must have these.  It is random, and low where the
    critic had too few steps or draws.

    Args:
        draws: of each, for the critic, and as many again for the estimate.

    Errors:
        ValueError, FloatingPointError: as of ``Fitting.fitted``.
    """

    def drawn(program: Callback) -> Tensor:
        found: Tensor = vmap(lambda: program(*args), size=draws)()
        return found

    with torch.no_grad():
        bags = drawn(p), drawn(q)
    critic = (fitting or Fitting()).fitted(*bags)
    with torch.no_grad():
        longest = critic.slope(torch.cat([*bags, (bags[0] + bags[1]) / 2])).norm(dim=-1).max()
    found: Tensor = apart(critic.frozen, drawn(p), drawn(q)) / longest
    return found


# ------------------------------------------------------------------------ exact, and by all pairs


def wasserstein2_of_normals(
    a: Tensor, b: Tensor, mean_a: Tensor | float = 0.0, mean_b: Tensor | float = 0.0
) -> Tensor:
    """W2^2 [] of normal laws with covariances a, b [M, M]: Bures' distance, and that of means.

    |mean_a - mean_b|^2 + tr a + tr b - 2 tr (a^1/2 b a^1/2)^1/2.

    Source: Dowson, Landau (1982).
    """
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.mT
    both = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0.0).sqrt().sum()
    apart = torch.as_tensor(mean_a - mean_b).square().sum()
    found: Tensor = apart + a.trace() + b.trace() - 2.0 * both
    return found


def energy_distance(x: Tensor, y: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| - E|y - y'| [] by draws [n, M], [m, M], all pairs of different ones.

    Its mean is zero where the laws are the same, and positive otherwise; a value may be below zero.

    Source: Szekely, Rizzo (2013).
    """

    def within(z: Tensor) -> Tensor:
        return torch.cdist(z, z).sum() / (len(z) * (len(z) - 1))

    return 2.0 * torch.cdist(x, y).mean() - within(x) - within(y)
