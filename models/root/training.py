"""Training of the network by pairs of low and high inputs."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pyro import distributions as dist
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...ppl import draw
from .aims import Aim, bound_weights, target
from .bridge import Schedule, q_sample
from .synthetic import Pairs

EMA, EMA_FROM, EMA_EVERY = 0.995, 4000, 8  # steps


def loss(
    net: nn.Module, of: Schedule, pairs: Pairs, aim: Aim = "grad", cfg_prob: float = 0.15
) -> Tensor:
    """The mean absolute error of the network at times that are drawn; ``cfg_prob`` hides values.

    For "elbo": T w_t |x_t - x0 - o|^2, whose mean is minus the ELBO of a pair in nats, but for what
    no network moves.
    """
    low, high, y_low, y_high = pairs
    T = len(of.m)
    t = draw(dist.Categorical(low.new_ones(T)), (len(low),))[:, None]
    noise = draw(dist.Normal(torch.zeros_like(low), 1.0))
    known = draw(dist.Bernoulli(low.new_full((len(low), 1), 1 - cfg_prob)))
    x_t = q_sample(of, high, low, t, noise)
    o = net(x_t, t.to(low) / T, torch.stack([y_high, y_low], 1), known)
    error: Tensor = target(aim, x_t, high, low, noise) - o
    if aim == "elbo":
        return T * (bound_weights(of)[t] * error.square()).sum(1).mean()
    return error.abs().mean()


def train(
    net: nn.Module,
    of: Schedule,
    epochs: Iterable[tuple[Pairs, Pairs]],
    aim: Aim = "grad",
    cfg_prob: float = 0.15,
    passes: int = 1,
    batch: int = 64,
    accumulate: int = 2,
    lr: float = 1e-3,
) -> tuple[nn.Module, list[float], list[float]]:
    """The network, and its losses on pairs to train by and on others, for each epoch.

    Adam steps by the mean of ``accumulate`` batches; its rate is halved after 200 steps without a
    lower loss. From step 4000 on, what is returned is a moving average of the weights.

    Errors:
        FloatingPointError: a loss is not finite.
    """
    adam = torch.optim.Adam(net.parameters(), lr, betas=(0.9, 0.999))
    plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(adam, factor=0.5, patience=200)
    average: AveragedModel | None = None
    trace, others, step = [], [], 0
    for pairs, held in epochs:
        losses = []
        for _ in range(passes):
            rows = torch.randperm(len(pairs.low)).split(batch)
            for i in range(0, len(rows), accumulate):
                part, seen = rows[i : i + accumulate], 0.0
                adam.zero_grad()
                for row in part:
                    now = loss(net, of, pairs.at(row), aim, cfg_prob) / len(part)
                    now.backward()
                    seen += float(now.detach())
                adam.step()
                plateau.step(seen)
                losses.append(seen)
                step += 1
                if step >= EMA_FROM and step % EMA_EVERY == 0:
                    average = average or AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(EMA))
                    average.update_parameters(net)
        trace.append(sum(losses) / len(losses))
        if not math.isfinite(trace[-1]):
            raise FloatingPointError(f"the loss of epoch {len(trace)} is {trace[-1]}: lower lr")
        if len(held.low):
            with torch.no_grad():
                others.append(float(loss(net, of, held, aim, cfg_prob)))
    return net if average is None else average.module, trace, others
