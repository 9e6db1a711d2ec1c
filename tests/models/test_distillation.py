"""Sparse distillation: acceptance checks for arXiv 2601.03195, figures computed by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from pyro import distributions as dist
from support.digits import digits
from torch import Tensor, nn

from pushforward.models.distillation import (
    MagnitudePruner,
    MixtureSoftening,
    MultiStage,
    OddsSoftening,
    PowerSoftening,
    are_equivalent,
    bias_variance,
    check_axioms,
    distillation_loss,
    from_samples,
    from_top_k,
    homotopy_bound,
    soften,
)

OPERATORS = {"power": PowerSoftening(), "mixture": MixtureSoftening(), "odds": OddsSoftening()}
NAMES = tuple(OPERATORS)


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def near(found: Tensor, expected: Any, atol: float = 1e-9) -> None:
    torch.testing.assert_close(found.detach(), f(expected), rtol=0, atol=atol)


P = f([0.7, 0.2, 0.08, 0.02])
SOFT = {
    "power": ([0.4898083047, 0.2618135516, 0.1655854291, 0.0827927145], 1.2044966428),
    "mixture": ([0.475, 0.225, 0.165, 0.135], 1.2568650583),
    "odds": ([0.4683408140, 0.2583139490, 0.1764775062, 0.0968677309], 1.2371526682),
}


@pytest.mark.parametrize("name", NAMES)
def test_families_by_hand(name: str) -> None:
    op = OPERATORS[name]
    q = op(P.log(), 2.0).exp()
    near(q, SOFT[name][0])
    near(-(q * q.log()).sum(), SOFT[name][1])
    near(op(P.log(), 1.0).exp(), P.tolist(), 1e-12)
    near(op(P.log(), 1e6).exp(), [0.25] * 4, 1e-6)
    zero = op(f([1.0, 0, 0]).log(), 2.0).exp()
    assert bool(zero.isfinite().all())
    assert (float(zero[1]) > 0.1) == (name == "mixture")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [2, 3, 10])
def test_axioms_hold(name: str, k: int) -> None:
    report = check_axioms(OPERATORS[name], k)
    assert report, str(report)
    assert str(report) == "all axioms hold where they were tried"


def truncated(log_p: Tensor, T: float) -> Tensor:
    soft = (log_p / T).log_softmax(-1)
    least = soft.topk(2, -1).values[..., -1:]
    return torch.where(soft >= least, soft, -math.inf).log_softmax(-1)


def hard(log_p: Tensor, T: float) -> Tensor:
    if T == 1.0:
        return log_p
    return nn.functional.one_hot(log_p.argmax(-1), log_p.shape[-1]).double().log()


def bumped(log_p: Tensor, T: float) -> Tensor:
    return PowerSoftening()(log_p, T if not 3 < T < 6 else 1 + (T - 3) / 10)


@pytest.mark.parametrize(
    ("op", "axiom"),
    [
        (truncated, "A1"),
        (hard, "A2"),
        (bumped, "A3"),
        (lambda log_p, T: (2 * log_p).log_softmax(-1), "A4"),
        (lambda log_p, T: (log_p / min(T, 30.0)).log_softmax(-1), "A5"),
    ],
)
def test_axioms_that_fail_are_named(op: Any, axiom: str) -> None:
    report = check_axioms(op, 5)
    assert not report and axiom in report.failed
    assert f"{axiom} (" in str(report) and "T = " in report.failed[axiom]


def test_one_axiom_alone_fails() -> None:
    assert set(check_axioms(bumped, 5).failed) == {"A3"}
    capped = check_axioms(lambda log_p, T: (log_p / min(T, 30.0)).log_softmax(-1), 5)
    assert set(capped.failed) == {"A5"}


def test_partial_access() -> None:
    torch.manual_seed(0)
    logits = torch.randn(9, 6, dtype=torch.float64)
    power = PowerSoftening()
    near(power(logits.softmax(-1).log(), 3.0), (logits / 3).log_softmax(-1).tolist(), 1e-12)
    ids, top = torch.tensor([0, 1]), f([0.7, 0.2])
    dropped = power(from_top_k(ids, top, 4, "drop"), 2.0).exp()
    near(dropped, [0.6516685226, 0.3483314774, 0, 0])
    spread = power(from_top_k(ids, top, 4, "uniform"), 2.0).exp()
    near(spread, [0.4833147735, 0.2583426133, 0.1291713066, 0.1291713066])
    counts = from_samples(torch.tensor([[0, 0, 2]]), 3).exp()
    near(counts.double(), [[2.5 / 4.5, 0.5 / 4.5, 1.5 / 4.5]], 1e-7)


def test_a_bucket_bounds_the_divergence() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 1000, 8, dtype=torch.float64) * 2
    probs, ids = teacher.softmax(-1).topk(3, -1)
    about: dict[str, Any] = {"T": 1.0, "reduction": "none"}
    bucket = distillation_loss(student, (ids, probs), access="topk", tail="bucket", **about)
    full = distillation_loss(student, teacher, **about)
    assert bool((bucket <= full + 1e-12).all()) and bool((bucket >= -1e-12).all())
    whole = teacher.softmax(-1).topk(8, -1)
    everything = distillation_loss(
        student, (whole.indices, whole.values), access="topk", tail="drop", **about
    )
    torch.testing.assert_close(everything, full)


@pytest.mark.parametrize(
    ("T", "loss", "gradient", "atol"),
    [
        (1.0, 0.30666633, (-0.37684475, 0.23075648, 0.14608827), 1e-8),
        (4.0, 0.32243373, (-0.38005785, 0.16354925, 0.21650860), 1e-8),
        (100.0, None, (-0.36734436, 0.13456635, 0.23277801), 1e-8),
        (1e6, None, (-0.36666667, 0.13333333, 0.23333333), 1e-4),
    ],
)
def test_loss_by_hand(T: float, loss: Any, gradient: Any, atol: float) -> None:
    teacher = f([[1, 0, -1]])
    student = f([[0, 0.5, -0.2]]).requires_grad_()
    for access, given in (("logits", teacher), ("probs", teacher.softmax(-1))):
        found = distillation_loss(student, given, T=T, access=access)  # type: ignore[arg-type]
        if loss is not None:
            near(found, loss, 1e-8)
        near(torch.autograd.grad(found, student)[0], [gradient], atol)
    classic = T**2 * nn.functional.kl_div(
        (student / T).log_softmax(-1), (teacher / T).log_softmax(-1), log_target=True,
        reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(found, classic, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("op", NAMES)
def test_gradients(op: Any) -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 4, 5, dtype=torch.float64)
    student.requires_grad_()
    for T in (1.0, 3.0):
        assert torch.autograd.gradcheck(
            lambda z, T=T: distillation_loss(z, teacher, T=T, op=op), student
        )


def test_hard_targets_and_reductions() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(2, 3, 4, 5)
    labels = torch.randint(5, (3, 4))
    half = distillation_loss(student, teacher, hard_targets=labels, weight=0.25, reduction="none")
    soft = distillation_loss(student, teacher, reduction="none")
    plain = nn.functional.cross_entropy(student.transpose(1, 2), labels, reduction="none")
    torch.testing.assert_close(half, 0.25 * soft + 0.75 * plain)
    assert half.shape == (3, 4)
    torch.testing.assert_close(distillation_loss(student, teacher, reduction="sum"), soft.sum())
    narrow = distillation_loss(student.bfloat16(), teacher.bfloat16())
    assert narrow.dtype == torch.float32


def test_soften() -> None:
    softened = soften(dist.Categorical(P), 2.0)
    near(softened.probs, SOFT["power"][0])
    near(softened.log_prob(torch.tensor(2)).exp(), SOFT["power"][0][2])
    near(soften(dist.Categorical(P), 2.0, "odds").probs, SOFT["odds"][0])


def test_equivalences() -> None:
    power, mixture, odds = OPERATORS.values()
    torch.manual_seed(0)
    two = torch.randn(50, 2, dtype=torch.float64).log_softmax(-1)
    many = torch.randn(50, 4, dtype=torch.float64).log_softmax(-1)

    def everything(q: Tensor) -> Tensor:
        return q

    def winner(q: Tensor) -> Tensor:
        return q.argmax(-1)

    assert are_equivalent(power, odds, everything, two, 3.0, 1e-12)
    assert not are_equivalent(power, mixture, everything, P.log()[None], 2.0, 1e-3)
    assert not are_equivalent(power, odds, everything, many, 3.0, 1e-3)
    assert are_equivalent(power, odds, winner, many, 3.0)
    assert are_equivalent(mixture, odds, winner, many, 3.0)

    def smoothed(log_p: Tensor, T: float) -> Tensor:
        eps = (T - 1) / log_p.shape[-1]
        return ((log_p.exp() + eps) / T).log()

    assert are_equivalent(mixture, smoothed, everything, many, 3.0, 1e-12)

    def shuffled(log_p: Tensor, T: float) -> Tensor:
        return mixture(log_p.roll(1, 0), T)

    assert are_equivalent(mixture, shuffled, lambda q: q.mean(0), many, 3.0, 1e-12)
    assert not are_equivalent(mixture, shuffled, everything, many, 3.0)


def test_the_bound_is_met_by_a_straight_path() -> None:
    error = 0.0
    for _ in range(10):
        error = 0.5 * (error + 0.1)
    assert error == pytest.approx(0.0999023438, abs=1e-10)
    assert homotopy_bound(1.0, 0.5, 10) == pytest.approx(error, abs=1e-15)
    assert homotopy_bound(1.0, 0.5, 1) == 0.5
    assert homotopy_bound(1.0, 0.5, 3, 2.0) == pytest.approx(0.25 + 1 / 3 * 0.875, abs=1e-15)


def test_the_rate_of_a_homotopy() -> None:
    def problem(s: float) -> tuple[Tensor, Tensor]:
        a = f([[2 + math.sin(2 * s), s / 2], [s / 2, 1 + s]])
        return a, f([1 + s, math.cos(3 * s)])

    ns, errors = (16, 32, 64, 128, 256), []
    for n in ns:
        x = torch.linalg.solve(*problem(0.0))
        for k in range(1, n + 1):
            a, b = problem(k / n)
            x = x - 0.2 * (a @ x - b)
        errors.append(float((x - torch.linalg.solve(*problem(1.0))).norm()))
    assert errors == pytest.approx([0.12964, 0.04707, 0.01931, 0.00873, 0.00415], abs=1e-5)
    slope = torch.linalg.lstsq(
        torch.stack([f(ns).log(), torch.ones(5).double()], 1), f(errors).log()[:, None]
    ).solution[0]
    assert -1.3 < float(slope) < -0.8


def test_a_sparse_student_may_beat_its_teacher() -> None:
    """300 repetitions: variances are measured to a few per cent (5.5 and .52 here).

    The squared bias of a mean of r repetitions is too great by variance / r, which is taken off:
    least squares have none, and the student's is about .014.
    """
    generator = torch.Generator().manual_seed(0)
    truth = torch.zeros(50, dtype=torch.float64)
    truth[:5] = f([3, -2, 1.5, 1, -1])
    dense, sparse = [], []
    for _ in range(300):
        x = torch.randn(60, 50, generator=generator, dtype=torch.float64)
        y = x @ truth + torch.randn(60, generator=generator, dtype=torch.float64)
        dense.append(torch.linalg.lstsq(x, y[:, None]).solution[:, 0])
        kept = dense[-1].abs().topk(8).indices
        student = torch.zeros_like(truth)
        student[kept] = torch.linalg.lstsq(x[:, kept], (x @ dense[-1])[:, None]).solution[:, 0]
        sparse.append(student)
    teacher, pupil = (bias_variance(torch.stack(each), truth) for each in (dense, sparse))
    assert teacher.variance > 5 * pupil.variance
    bias = [split.bias - split.variance / 299 for split in (teacher, pupil)]
    assert bias[1] > 0.01 > abs(bias[0]) and pupil.total < teacher.total
    for split in (teacher, pupil):
        assert split.total == pytest.approx(split.bias + split.variance, rel=1e-10)


def test_divergences_split() -> None:
    torch.manual_seed(0)
    predictions = torch.randn(20, 6, 4, dtype=torch.float64).softmax(-1)
    truth = torch.randn(6, 4, dtype=torch.float64).softmax(-1)
    split = bias_variance(predictions, truth, "kl")
    assert split.total == pytest.approx(split.bias + split.variance, rel=1e-12)
    exact = (truth * (truth / predictions).log()).sum(-1).mean()
    assert split.total == pytest.approx(float(exact), rel=1e-12)


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("schedule", ["geometric", "linear", "cubic"])
def test_masks_are_nested(scope: Any, schedule: Any) -> None:
    net = small()
    x = torch.randn(5, 8)
    pruner = MagnitudePruner(net, 0.9, schedule, scope)
    optimizer = torch.optim.Adam(net.parameters())
    net(x).sum().backward()
    optimizer.step()
    last = pruner.density
    assert last == 1.0
    for k in range(1, 5):
        before = {name: mask.clone() for name, mask in pruner.masks.items()}
        pruner.step(k, 4, optimizer)
        assert pruner.density < last
        last = pruner.density
        assert last == pytest.approx(pruner.density_at(k, 4), abs=0.01)
        for name, mask in pruner.masks.items():
            assert not bool((mask & ~before[name]).any())
    assert pruner.density == pytest.approx(0.1, abs=0.01)
    first = net[0].parametrizations.weight.original  # type: ignore[union-attr, index]
    moment = optimizer.state[first]["exp_avg"]
    assert not moment[~pruner.masks["0"]].any() and moment[pruner.masks["0"]].any()
    assert not net[0].weight[~pruner.masks["0"]].any()
    state = copy.deepcopy(net.state_dict())
    other = small()
    MagnitudePruner(other, 0.9)
    other.load_state_dict(state)
    out = net(x)
    assert torch.equal(other(x), out)
    pruner.apply_masks()
    assert torch.equal(net(x), out) and set(net.state_dict()) == set(small().state_dict())


def test_patterns() -> None:
    net = small()
    pruner = MagnitudePruner(net, pattern=(2, 4))
    pruner.step(1, 2)
    assert pruner.density == 0.75
    pruner.step(2, 2)
    for mask in pruner.masks.values():
        assert bool((mask.unflatten(-1, (-1, 4)).sum(-1) == 2).all())


@pytest.mark.slow
@pytest.mark.parametrize(("target", "stages"), [(0.98, 5), (0.99, 10)])
def test_stages(target: float, stages: int) -> None:
    """With 200 steps in all, stages beat one shot by 0.3.

    Measured at 98 %: 1: .180, 2: .481, 5: .494, 10: .792; at 99 %: .109, .173, .377, .577; teacher
    .979.  Even 20 stages of 10 steps did no harm (.896 and .789, 8 seeds).
    """
    x, x_test, y, y_test = digits()
    x, x_test = x.flatten(1), x_test.flatten(1)

    def accuracy(net: nn.Module) -> float:
        return float((net(x_test).argmax(1) == y_test).double().mean())

    found: dict[int, list[float]] = {1: [], 2: [], 5: [], 10: []}
    teachers = []
    for seed in range(3):
        torch.manual_seed(seed)
        teacher = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
        )
        optimizer = torch.optim.Adam(teacher.parameters(), lr=1e-3)
        for _ in range(400):
            rows = torch.randint(len(x), (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(x[rows]), y[rows]).backward()
            optimizer.step()
        teachers.append(accuracy(teacher))
        for n in found:
            torch.manual_seed(seed)
            student = copy.deepcopy(teacher)
            loader = (x[torch.randint(len(x), (64,))] for _ in range(200))
            MultiStage(teacher, student, n, 200 // n, target, progress=False).fit(loader)
            found[n].append(accuracy(student))
    means = {n: sum(each) / 3 for n, each in found.items()}
    assert sum(teachers) / 3 > 0.96
    assert means[stages] >= means[1] + 0.3
    assert means[10] > means[2] > means[1]


def test_a_loader_is_gone_through_again() -> None:
    net = small()
    stages = MultiStage(copy.deepcopy(net), net, 2, 5, 0.5, progress=False)
    assert len(stages.fit([torch.randn(4, 8), (torch.randn(4, 8), torch.zeros(4))])) == 10
    assert stages.pruner.density == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="the loader is empty"):
        MultiStage(small(), small(), 1, 1, 0.5, progress=False).fit([])


Z = torch.zeros(2, 4)
IDS, TOP = torch.tensor([[0, 1], [2, 3]]), torch.full((2, 2), 0.4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: PowerSoftening()(Z, 0.0), "positive and finite, not 0"),
        (lambda: OddsSoftening()(Z, -1.0), "positive and finite, not -1"),
        (lambda: MixtureSoftening()(Z, 0.5), "at least one, not 0.5"),
        (lambda: distillation_loss(Z, Z, op="softer"), "no 'softer'"),  # type: ignore[arg-type]
        (lambda: distillation_loss(Z, Z, access="text"), "'samples', not 'text'"),  # type: ignore[arg-type]
        (lambda: distillation_loss(Z, Z, access="probs"), "do not sum to one"),
        (lambda: distillation_loss(Z, Z - 1, access="probs"), "negative"),
        (lambda: distillation_loss(Z, Z * math.nan), "not numbers"),
        (lambda: distillation_loss(Z, torch.zeros(2, 5)), "has 5 outcomes, the student 4"),
        (lambda: distillation_loss(Z, Z, weight=0.5), "hard targets"),
        (lambda: distillation_loss(Z, Z, reduction="max"), "'none', not 'max'"),  # type: ignore[arg-type]
        (lambda: distillation_loss(Z, (IDS * 0, TOP), access="topk"), "listed twice"),
        (lambda: distillation_loss(Z, (IDS + 3, TOP), access="topk"), r"lie in \[0, 4\)"),
        (lambda: distillation_loss(Z, (IDS, TOP + 0.2), access="topk"), "at most one"),
        (lambda: distillation_loss(Z, (IDS, TOP[0]), access="topk"), "differ"),
        (lambda: from_top_k(IDS, TOP, 4, "bucket"), "'drop' or 'uniform'"),  # type: ignore[arg-type]
        (lambda: from_samples(IDS + 1, 4), r"lie in \[0, 4\)"),
        (lambda: check_axioms(PowerSoftening(), 1), "two outcomes"),
        (lambda: bias_variance(Z, Z), "are expected"),
        (lambda: bias_variance(Z[None], Z, "kl"), "sum to one"),
        (lambda: homotopy_bound(1.0, 1.0, 3), "rho < 1"),
        (lambda: MagnitudePruner(small(), 1.0), r"in \[0, 1\), not 1"),
        (lambda: MagnitudePruner(small(), -0.1), r"in \[0, 1\)"),
        (lambda: MagnitudePruner(small()), "either a target or a pattern"),
        (lambda: MagnitudePruner(nn.ReLU(), 0.5), "to prune"),
        (lambda: MagnitudePruner(small(), 0.5, "slow"), "unknown schedule"),  # type: ignore[arg-type]
        (lambda: MagnitudePruner(nn.Linear(6, 2), pattern=(2, 4)), "no multiple of 4"),
        (lambda: MagnitudePruner(small(), pattern=(4, 4)), "1 to m - 1"),
        (lambda: MagnitudePruner(small(), 0.5).step(0, 3), "from 1 to 3, not 0"),
        (lambda: MultiStage(small(), small(), 0, 5, 0.5), "stages and steps"),
    ],
)
def test_bad_input(call: Any, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        call()


def test_stages_out_of_order() -> None:
    pruner = MagnitudePruner(small(), 0.5)
    pruner.step(2, 3)
    with pytest.raises(RuntimeError, match="masks are nested"):
        pruner.step(1, 3)


def test_a_student_without_mass() -> None:
    student = torch.tensor([[0.0, -math.inf, 1.0, 0.0]])
    with pytest.warns(UserWarning, match="no mass"):
        loss = distillation_loss(student, torch.zeros(1, 4))
    assert float(loss) == math.inf
    nothing_there = torch.tensor([[0.5, 0.0, 0.25, 0.25]])
    found = distillation_loss(student, nothing_there, access="probs", T=1.0)
    assert bool(found.isfinite())
