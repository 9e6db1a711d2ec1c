"""Targets in lane code, and what the tests of the engine ask of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pushforward.inference.mcmc import Parameters, State, nuts
from pushforward.inference.mcmc.hamiltonian import Phase, Potential, leapfrog, with_momentum
from pushforward.inference.mcmc.lanes.engine import (
    SOURCE,
    Advance,
    Chains,
    Engine,
    Metric,
    step_sizes,
    transition,
)
from pushforward.inference.mcmc.lanes.tensors import TensorEngine
from pushforward.inference.mcmc.nuts import NUTSInfo
from pushforward.ppl.compile.folding import fold
from pushforward.ppl.compile.lanes.function import LaneFunction
from pushforward.ppl.language.effects import is_draw
from pushforward.ppl.tensors.capture import capture_vector
from pushforward.semantics import Report, check
from pushforward.semantics.checks.orbit import Orbit


def correlated(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2 / 0.36)


def banana(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + 4.0 * (z[1] - z[0] ** 2) ** 2)


def edge(z: Tensor) -> Tensor:
    return torch.where(z[0] > -0.5, -0.5 * (z**2).sum(), -torch.inf)


def funnel(z: Tensor) -> Tensor:
    return -0.5 * (z[0] / 3) ** 2 - 0.5 * (z[1:] ** 2).sum() * (-z[0]).exp() - z[0]


def narrow(z: Tensor) -> Tensor:
    return -0.5 * (z / torch.tensor([1e-2, 1.0, 30.0, 1.0, 0.3], dtype=z.dtype)).square().sum()


def lattice(z: Tensor) -> Tensor:
    return 3.0 * torch.cos(2.0 * z).sum() - 0.1 * z.square().sum()


def flat(z: Tensor) -> Tensor:
    return 0.0 * z.sum()


# Each with its dimension.
TARGETS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "correlated": (correlated, 2),
    "banana": (banana, 2),
    "edge": (edge, 3),
    "funnel": (funnel, 3),
    "narrow": (narrow, 5),
    "lattice": (lattice, 1),
}


@cache
def lane_function(name: str) -> LaneFunction:
    density, d = (flat, 1) if name == "flat" else TARGETS[name]
    u = torch.full((4, d), 0.3, dtype=torch.float64)
    return LaneFunction(fold(capture_vector(density, u[0])), u)


def engine(name: str, max_depth: int, text: str | None = None, jitter: float = 0.0) -> Engine:
    return Engine(lane_function(name), max_depth, text or SOURCE.read_text(), jitter=jitter)


def potential_of(name: str) -> Potential:
    """The density as the program takes it."""

    def potential(u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient, *_ = lane_function(name)(u)
        return value, gradient

    return potential


def tensor_engine(name: str, max_depth: int, jitter: float = 0.0) -> TensorEngine:
    return TensorEngine(potential_of(name), max_depth, jitter)


def chains_at(name: str, position: Tensor, step: Tensor) -> Chains:
    """Chains at these positions [n, d] with step sizes [n]; their generators are all alike."""
    log_density, gradient, *_ = lane_function(name)(position)
    random = torch.arange(1, 4 * len(position) + 1).reshape(-1, 4)
    return Chains(position, log_density, gradient.contiguous(), step_sizes(step), random)


def slanted(d: int) -> Metric:
    """A metric that is not diagonal."""
    direction = torch.arange(1.0, d + 1.0, dtype=torch.float64)
    return Metric(
        torch.linspace(0.7, 1.2, d, dtype=torch.float64),
        (direction / direction.norm())[None],
        torch.tensor([0.8], dtype=torch.float64),
    )


def judged(
    name: str,
    size: float,
    max_depth: int,
    text: str | None = None,
    metric: Metric | None = None,
    runner: Any = None,
    share: float = 0.5,
) -> Report:
    """Whether the engine preserves the weights of an orbit with steps of this size.

    With jitter, an orbit with the steps that ``share`` makes of it.
    """
    runner, potential = runner or engine(name, max_depth, text), potential_of(name)
    step = torch.full((1,), size, dtype=torch.float64)
    size *= 1.0 + runner.jitter * (2.0 * share - 1.0)
    reach, d = 2**max_depth - 1, TARGETS[name][1]
    z = torch.linspace(0.7, 0.3, d, dtype=torch.float64)[None]
    w = torch.linspace(0.6, -0.9, d, dtype=torch.float64)[None]
    path: list[Phase] = []
    metric = metric or Metric.diagonal(torch.ones(d, dtype=torch.float64))
    parameters = Parameters(torch.tensor(size), *metric)

    def move(point: Phase, sign: Tensor) -> Phase:
        scale = sign[:, None] * (size * metric.root)
        path.append(leapfrog(point, potential, scale, parameters.stretched))
        return path[-1]

    start, margin = with_momentum(State(z, *potential(z)), w), 2 * reach + 4
    orbit = Orbit.through(start, move, margin, margin)
    phases = [*path[margin - 1 :: -1], start, *path[margin:]]
    positions = torch.cat([phase.position for phase in phases])
    chains = [chains_at(name, phase.position, step) for phase in phases]

    def moved(point: Any, _: Any) -> Any:
        at = phases[int(point.index)]
        after = transition(runner, chains[int(point.index)], metric, at.momentum, share)
        distance = (positions - after.position).square().sum(-1)
        return orbit.point(int(distance.nan_to_num(torch.inf).argmin()))

    return check.orbit(moved, orbit, reach)


class GivenChoices(Messenger):
    """Within, normals, step size and coins of a chain are its row of choices [chains, n]."""

    def __init__(self, choices: Tensor) -> None:
        super().__init__()
        self.choices, self.at = choices, 0

    def _process_message(self, msg: Any) -> None:
        if msg["type"] != "sample" or not is_draw(msg):
            return
        law = msg["fn"]
        while hasattr(law, "base"):
            law = law.base
        if isinstance(law, dist.Normal):
            d = msg["fn"].shape()[-1]
            msg["value"] = self.choices[:, :d].clone()
            self.at = d
        elif isinstance(law, dist.Uniform):
            msg["value"] = self.choices[:, self.at].clone()
            self.at += 1
        else:
            msg["value"] = (self.choices[:, self.at] < law.probs).double()
            self.at += 1
        msg["done"] = msg["stop"] = True


def by_program(
    name: str,
    chains: Chains,
    metric: Metric,
    max_depth: int,
    choices: Tensor,
    jitter: float = 0.0,
) -> tuple[State, NUTSInfo]:
    """One transition of the program with these choices, on the same density."""
    step = chains.step_sizes.log_step.exp()
    parameters = Parameters(step, metric.root.square(), metric.directions, metric.stretch)
    state = State(chains.position, chains.log_density, chains.gradient)
    with GivenChoices(choices):
        state, info = nuts(max_depth, jitter).step(state, potential_of(name), parameters)
    return state, info


def off(found: Advance, state: State, info: NUTSInfo) -> Tensor:
    """Which chains [n] did not make the transition of the program."""
    same = torch.isclose(found.chains.position, state.position, rtol=1e-7, atol=1e-9).all(-1)
    for name in ("diverging", "tree_depth", "n_steps"):
        same &= getattr(found.info, name)[:, 0] == getattr(info, name)
    rates = found.info.acceptance_rate[:, 0], info.acceptance_rate
    same &= torch.isclose(*rates, rtol=1e-6, atol=1e-9)
    return ~(same & torch.isclose(found.info.energy[:, 0], info.energy, rtol=1e-7, atol=1e-7))


def random_cases(name: str, n: int, max_depth: int, seed: int) -> tuple[Chains, Metric, Tensor]:
    """Chains anywhere with step sizes of any use, a metric that is diagonal or not, and choices."""
    g = torch.Generator().manual_seed(seed)
    d = TARGETS[name][1]

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    step = torch.exp(1.2 * normal(n) - 0.5)
    most = 2 ** (max_depth + 1) + 2 * max_depth + 2
    uniform = torch.rand(n, most, generator=g, dtype=torch.float64)
    choices = torch.cat([normal(n, d), uniform], 1)
    rank = seed % 2 * min(d, 2)
    directions = torch.linalg.qr(normal(d, d))[0][:rank]
    metric = Metric(torch.exp(0.3 * normal(d)), directions, torch.exp(0.5 * normal(rank)) - 1.0)
    return chains_at(name, normal(n, d), step), metric, choices


def wrong(runner: Any, name: str, cases: int, max_depth: int, seed: int) -> int:
    """In how many random cases an engine on a target does not what the program does."""
    chains, metric, choices = random_cases(name, cases, max_depth, seed)
    found, _ = runner.replay(chains, metric, choices)
    program = by_program(name, chains, metric, max_depth, choices, runner.jitter)
    return int(off(found, *program).sum())


# What is altered in the engine's code, and by what.
FAULTS: dict[str, tuple[str, str]] = {
    "leaves chosen with probability 1/2": ("1 / (1 + std::exp(subtree_weight - w))", "0.5"),
    "leaves chosen with bias": (
        "1 / (1 + std::exp(subtree_weight - w))",
        "std::exp(std::min(w - subtree_weight, 0.0))",
    ),
    "subtrees chosen always": ("source.coin(take)", "source.coin(1.0)"),
    "subtrees chosen by the inverse ratio": (
        "std::min(subtree_weight - log_weight, 0.0)",
        "std::min(log_weight - subtree_weight, 0.0)",
    ),
    "the proposal of an incomplete subtree": (
        "if (close_spans()) return true;",
        "if (close_spans()) { std::swap(proposal, candidate); return true; }",
    ),
    "the weight of the old half is forgotten": (
        "log_weight = logaddexp(log_weight, subtree_weight);",
        "log_weight = subtree_weight;",
    ),
    "the weight of the new leaf is forgotten": (
        "subtree_weight = logaddexp(subtree_weight, w);",
        "",
    ),
    "only one end may turn": ("return a <= 0 || b <= 0 ||", "return a <= 0; return"),
    "one seam is not asked": ("|| f <= 0 || g <= 0", ""),
    "aligned subtrees are not asked": ("if (turned(a, b, d)) return true;", ""),
    "forward more often than backward": ("source.coin(0.5)", "source.coin(0.6)"),
    "always from the right": ("forward ? right : left);\n        size", "right);\n        size"),
    "sums of momenta are not kept": ("total[i] += spans[0].total[i];", ";"),
    "the end of a joined stretch is lost": ("std::swap(a.last, b.last);", ""),
    "kicks are not stretched": (
        "stretch.apply(drift, products, d);\n        add(edge",
        "add(edge",
    ),
}


def altered(right: str, wrong: str) -> str:
    """The engine's code with one line altered."""
    text = SOURCE.read_text()
    assert text.count(right) == 1, right
    return text.replace(right, wrong)
