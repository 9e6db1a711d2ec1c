"""The no-U-turn transition, enumerated on orbits, and its seeded faults."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward.inference.mcmc import Parameters, State, hamiltonian, nuts
from pushforward.inference.mcmc.hamiltonian import Phase, leapfrog, with_momentum
from pushforward.ppl import seeded
from pushforward.semantics import Report, check
from pushforward.semantics.checks.orbit import Orbit

tree = importlib.import_module("pushforward.inference.mcmc.nuts")


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def correlated(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + (z[1] - 0.8 * z[0]) ** 2 / 0.36)


def banana(z: Tensor) -> Tensor:
    return -0.5 * (z[0] ** 2 + 4.0 * (z[1] - z[0] ** 2) ** 2)


def edge(z: Tensor) -> Tensor:
    return torch.where(z[0] > -0.5, -0.5 * (z**2).sum(), -torch.inf)


TARGETS = {"correlated": correlated, "banana": banana, "edge": edge}


def potential(log_density: Callable[[Tensor], Tensor]) -> hamiltonian.Potential:
    both = torch.func.vmap(torch.func.grad_and_value(log_density))

    def at(z: Tensor) -> tuple[Tensor, Tensor]:
        gradient, value = both(z)
        return value, gradient

    return at


@cache
def orbit(name: str, size: float, depth: int) -> Orbit:
    target = potential(TARGETS[name])
    z = f([[0.7, 0.3]])
    start = with_momentum(State(z, *target(z)), f([[0.6, -0.9]]))

    def move(point: Phase, sign: Tensor) -> Phase:
        return leapfrog(point, target, sign[:, None] * f([size, size]))

    reach = 2**depth - 1
    return Orbit.through(start, move, 2 * reach + 4, 2 * reach + 4)


def judged(name: str, size: float, depth: int, seen: list[Any] | None = None) -> Report:
    """The check of one orbit; ``seen`` collects the trees that were built."""

    def transition(start: Any, move: Any) -> Any:
        built = tree.trajectory(start, move, depth)
        if seen is not None:
            seen.append(built)
        return built.proposal

    return check.orbit(transition, orbit(name, size, depth), 2**depth - 1)


def require_sound(name: str, size: float, depth: int) -> None:
    """The check passes, and its trees are of full depth and less, at the edge divergent as well."""
    seen: list[Any] = []
    judged(name, size, depth, seen).require()
    depths = {int(built.doublings) for built in seen}
    assert depth in depths and len(depths) > 1, depths
    assert name != "edge" or any(bool(built.divergent) for built in seen)


@pytest.mark.parametrize(
    ("name", "size"),
    quick(
        2,
        [
            ("correlated", 0.4),
            ("edge", 0.4),
            ("correlated", 0.15),
            ("correlated", 0.8),
            ("banana", 0.4),
        ],
    ),
)
def test_depth_3_preserves_the_weights_of_an_orbit(name: str, size: float) -> None:
    require_sound(name, size, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("correlated", 0.14), ("banana", 0.2), ("edge", 0.2)])
def test_depth_4_preserves_the_weights_of_an_orbit(name: str, size: float) -> None:
    require_sound(name, size, 4)


def ratio(new: Tensor, old: Tensor) -> Tensor:
    return (new - old).clamp(max=0.0).exp()


def against(left: Any, right: Any, pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    return torch.stack([(a * b).sum(-1) <= 0.0 for a, b in pairs]).any(0)


def only_first_end(left: Any, right: Any) -> Tensor:
    return against(left, right, [(left.first, left.total + right.total)])


def one_seam(left: Any, right: Any) -> Tensor:
    total, seam = left.total + right.total, left.total + right.first
    pairs = [(left.first, total), (right.last, total), (left.first, seam), (right.first, seam)]
    return against(left, right, pairs)


def unchecked_spans(spans: Any, leaf: Any, size: int) -> Any:
    return original_spans(spans, leaf, size)[0], []


def without_the_largest(spans: Any, leaf: Any, size: int) -> Any:
    closed, turns = original_spans(spans, leaf, size)
    return closed, turns[:-1]


original_spans = tree.close_spans

FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "leaves chosen with probability 1/2": (
        "leaf_probability", lambda s, leaf: torch.full_like(s.log_weight, 0.5)),
    "leaves chosen with bias": (
        "leaf_probability", lambda s, leaf: ratio(leaf.log_weight, s.log_weight)),
    "leaves chosen uniformly": (
        "leaf_probability", lambda s, leaf: torch.full_like(s.log_weight, 1 / (s.size + 1))),
    "subtrees chosen always": (
        "subtree_probability", lambda t, s: torch.ones_like(t.log_weight)),
    "subtrees chosen by the inverse ratio": (
        "subtree_probability", lambda t, s: ratio(t.log_weight, s.log_weight)),
    "the proposal of an incomplete subtree": (
        "usable", lambda s: torch.ones_like(s.valid)),
    "only the weight of the proposing half is kept": (
        "added_weight", lambda t, s, take: torch.where(take, s.log_weight, t.log_weight)),
    "the weight of the old half is forgotten": (
        "added_weight", lambda t, s, take: s.log_weight),
    "an unfair direction": (
        "direction", lambda t: hamiltonian.coin(torch.full_like(t.log_weight, 0.7))),
    "U-turns asked of one end": ("turned", only_first_end),
    "a seam in one direction only": ("turned", one_seam),
    "no U-turns inside subtrees": ("close_spans", unchecked_spans),
    "the largest subtree unchecked": ("close_spans", without_the_largest),
    "the first leaf is the edge": ("first_leaf", lambda edge, sign, leapfrog: edge),
    "the wrong edge is extended": ("extended_edge", lambda t, forward: t.left),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_seeded_faults_are_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, *FAULTS[fault])
    cases = [("correlated", 0.4, 2), ("correlated", 0.72, 3)]
    reports = []
    for case in cases:
        reports.append(judged(*case))
        if reports[-1].verdict == "fail":
            break
    assert reports[-1].verdict == "fail", reports
    assert "of the orbit has weight" in reports[-1].counterexample


def test_unbiased_selection_between_subtrees_is_still_valid(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """W_new / (W_new + W_old) in place of min(1, W_new / W_old): slower to mix, as right."""
    monkeypatch.setattr(
        tree, "subtree_probability", lambda t, s: (s.log_weight - t.log_weight).sigmoid()
    )
    judged("banana", 0.4, 3).require()


def test_a_flat_density_is_doubled_to_the_limit() -> None:
    """Free flight never turns: depth 3 is 7 leapfrogs, all accepted."""
    flat: hamiltonian.Potential = lambda z: (0 * z.sum(-1), torch.zeros_like(z))  # noqa: E731
    kernel = nuts(3)
    with seeded(0):
        _, info = kernel.step(kernel.init(f([[0.0]] * 5), flat), flat, Parameters(f(1.0), f([1.0])))
    assert info.n_steps.tolist() == [7] * 5 and info.tree_depth.tolist() == [3] * 5
    assert info.acceptance_rate.tolist() == [1.0] * 5 and not info.diverging.any()


def test_a_first_leaf_of_no_density_is_a_divergence() -> None:
    """A point mass of an interval: the first leapfrog leaves it, is flagged, and is refused."""

    def inside(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.where(z[:, 0].abs() < 1e-9, 0.0, -torch.inf).to(z), torch.zeros_like(z)

    kernel = nuts(5)
    with seeded(0):
        state, info = kernel.step(
            kernel.init(f([[0.0]] * 3), inside), inside, Parameters(f(1.0), f([1.0]))
        )
    assert state.position.tolist() == [[0.0]] * 3 and info.diverging.all()
    assert info.n_steps.tolist() == [1] * 3 and info.tree_depth.tolist() == [0] * 3
    assert info.acceptance_rate.tolist() == [0.0] * 3
