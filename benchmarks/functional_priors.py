"""Functional priors beside plain PyTorch: draws of functions, steps of a critic, steps of SGHMC.

    OMP_NUM_THREADS=1 python benchmarks/functional_priors.py

Milliseconds of CPU of the process, medians of rounds in turn, and medians of the paired ratios; a
network 1-50-50-1 in float32 at 50 points, 128 draws.  *loop*: one function after the other, each by
``functional_call``; *vmap*: the same under ``torch.func.vmap`` with its weights drawn at once; *by
hand*: a critic of ``nn.Sequential`` whose slope comes of ``create_graph``; *SGHMC by hand*: four
chains of parameters, one after the other, with autograd.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call

from pushforward import vmap
from pushforward.inference import SGMCMC, sghmc
from pushforward.inference.vi.wasserstein import Critic, Fitting
from pushforward.models.functional_priors import GaussianPrior, Network, Normal, bnn, functions
from pushforward.ppl.interpretations.log_density import LogDensity

S, M, WIDTH, ROWS, CHAINS = 128, 50, 50, 32, 4
X = torch.linspace(-3, 3, M)[:, None]
Run = Callable[[], object]


def module() -> nn.Module:
    return nn.Sequential(
        nn.Linear(1, WIDTH), nn.Tanh(), nn.Linear(WIDTH, WIDTH), nn.Tanh(), nn.Linear(WIDTH, 1)
    )


def draws() -> dict[str, Run]:
    net, prior = Network(1, (WIDTH, WIDTH)), GaussianPrior()
    f, peer = functions(net, prior), module()
    shapes = {name: p.shape for name, p in peer.named_parameters()}
    rho = {name: torch.ones((), requires_grad=True) for name in shapes}

    def weights(*lead: int) -> dict[str, Tensor]:
        scale = {name: nn.functional.softplus(each) for name, each in rho.items()}
        return {name: scale[name] * torch.randn(*lead, *shape) for name, shape in shapes.items()}

    def loop() -> Tensor:
        return torch.stack([functional_call(peer, weights(), (X,)) for _ in range(S)])

    def lanes() -> Tensor:
        return torch.func.vmap(lambda w: functional_call(peer, w, (X,)))(weights(S))

    def backward(forward: Callable[[], Tensor]) -> Run:
        return lambda: forward().square().mean().backward()  # type: ignore[no-untyped-call]

    return {
        "ours": backward(lambda: vmap(lambda: f(X), size=S)()),
        "loop": backward(loop),
        "vmap": backward(lanes),
    }


def critics(width: int = 200) -> dict[str, Run]:
    p, q, fitting = torch.randn(S, M), torch.randn(S, M) + 0.5, Fitting(width=width)
    ours = Critic(M, width)
    peer = nn.Sequential(
        nn.Linear(M, width), nn.Softplus(), nn.Linear(width, width), nn.Softplus(),
        nn.Linear(width, 1),
    )  # fmt: skip

    def step() -> None:
        torch.autograd.grad(fitting.loss(ours, p, q, torch.rand(S, 1)), ours.parameters)

    def by_hand() -> None:
        share = torch.rand(S, 1)
        between = (share * p + (1 - share) * q).requires_grad_()
        (slope,) = torch.autograd.grad(peer(between).sum(), between, create_graph=True)
        penalty = 10 * (slope.norm(dim=1) - 1).square().mean()
        torch.autograd.grad(penalty - peer(p).mean() + peer(q).mean(), list(peer.parameters()))

    return {"ours": step, "by hand": by_hand}


def chains(steps: int = 20) -> dict[str, Run]:
    x = torch.linspace(-3, 3, 200)[:, None]
    y = torch.sin(x[:, 0])
    net, prior = Network(1, (WIDTH, WIDTH)), GaussianPrior()
    model = bnn(net, prior, Normal(0.1))
    prior.requires_grad_(False)
    driver, kernel = SGMCMC(batch=ROWS, progress=False), sghmc(1e-3)
    u = torch.randn(CHAINS, LogDensity(model, x, y, None).size)
    potential = driver.potential(model, (x, y), len(y), u)
    sampler = kernel.sample
    assert sampler is not None
    peers = [module() for _ in range(CHAINS)]
    state = [[[torch.ones_like(p) for _ in range(4)] for p in peer.parameters()] for peer in peers]

    def by_hand() -> None:
        for _ in range(steps):
            for peer, rows in zip(peers, state, strict=True):
                i = torch.randint(len(y), (ROWS,))
                error = (peer(x[i])[:, 0] - y[i]).square().sum() * len(y) / ROWS / 0.02
                prior_ = sum(p.square().sum() for p in peer.parameters()) / (2 * 1.3**2)
                slopes = torch.autograd.grad(error + prior_, list(peer.parameters()))
                with torch.no_grad():
                    for p, g, (tau, mean, v, r) in zip(
                        peer.parameters(), slopes, rows, strict=True
                    ):
                        share = 1 / (tau + 1)
                        tau += 1 - tau * mean**2 / (v + 1e-10)
                        mean += share * (g - mean)
                        v += share * (g**2 - v)
                        pull = 1e-6 / (v.sqrt() + 1e-10)
                        noise = (0.02 * pull - 1e-12).clamp(min=1e-16).sqrt()
                        r += -pull * g - 0.01 * r + noise * torch.randn_like(p)
                        p += r

    return {
        "ours": lambda: sampler(kernel, potential, u, steps, 0),
        "by hand": by_hand,
    }


def compared(runs: dict[str, Run], rounds: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run()
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    for name, found in times.items():
        ratios = [a / b for a, b in zip(found, times["ours"], strict=True)]
        ms, ratio = 1e3 * statistics.median(found), statistics.median(ratios)
        print(f"  {name:8} {ms:8.2f} ms   {ratio:6.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Functional priors beside plain PyTorch.")
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    torch.manual_seed(0)
    torch.set_num_threads(1)
    for what, make in {
        f"{S} functions, and the gradient of their squares": draws,
        "a step of a critic of width 200": critics,
        f"20 steps of {CHAINS} chains of SGHMC, batches of {ROWS}": chains,
    }.items():
        print(what)
        compared(make(), rounds)


if __name__ == "__main__":
    main()
