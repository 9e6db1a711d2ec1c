"""Operators that soften distributions by a temperature, and the axioms that they should obey.

Source: Flouro and Chadwick, Sparse Knowledge Distillation: A Mathematical Framework for
Probability-Domain Temperature Scaling and Multi-Stage Compression (arXiv 2601.03195).  The body of
the paper was not available: the five axioms are its own, their wording and the three families are
choices.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from pyro import distributions as dist
from torch import Tensor

AXIOMS = {
    "A1": "it keeps the ranking",
    "A2": "it is continuous",
    "A3": "the entropy does not fall with the temperature",
    "A4": "temperature one changes nothing",
    "A5": "it becomes uniform, and towards zero, where it is defined, the greatest entry alone",
}


class SofteningOperator(Protocol):
    """Log probabilities [..., k] at a temperature, from those at temperature one."""

    def __call__(self, log_p: Tensor, T: float) -> Tensor: ...


def _require_positive(T: float) -> None:
    if not 0 < T < math.inf:
        raise ValueError(f"a temperature is positive and finite, not {T}")


@dataclass(frozen=True)
class PowerSoftening:
    """p^(1 / T), normalised: the softmax of logits over T.  Zeros stay zero."""

    def __call__(self, log_p: Tensor, T: float) -> Tensor:
        _require_positive(T)
        return (log_p / T).log_softmax(-1)


@dataclass(frozen=True)
class MixtureSoftening:
    """p / T + (1 - 1 / T) / k, for T of at least one: a mixture with the uniform distribution."""

    def __call__(self, log_p: Tensor, T: float) -> Tensor:
        if not 1 <= T < math.inf:
            raise ValueError(f"a mixture has a temperature of at least one, not {T}")
        if T == 1:
            return log_p
        uniform = log_p.new_tensor((1 - 1 / T) / log_p.shape[-1]).log()
        return torch.logaddexp(log_p - math.log(T), uniform)


@dataclass(frozen=True)
class OddsSoftening:
    """sigmoid(logit(p) / T), normalised: of two outcomes, the same as a power.  Zeros stay zero."""

    def __call__(self, log_p: Tensor, T: float) -> Tensor:
        _require_positive(T)
        rest = (-torch.expm1(log_p)).clamp(min=torch.finfo(log_p.dtype).tiny).log()
        return torch.nn.functional.logsigmoid((log_p - rest) / T).log_softmax(-1)


Family = Literal["power", "mixture", "odds"]
FAMILIES: dict[str, SofteningOperator] = {
    "power": PowerSoftening(),
    "mixture": MixtureSoftening(),
    "odds": OddsSoftening(),
}


def operator_of(op: Family | SofteningOperator) -> SofteningOperator:
    """The operator itself, or that of a family.

    Errors:
        ValueError: there is no such family.
    """
    if not isinstance(op, str):
        return op
    if op not in FAMILIES:
        raise ValueError(f"the families are {', '.join(FAMILIES)}; there is no {op!r}")
    return FAMILIES[op]


def soften(
    distribution: dist.Categorical, T: float, op: Family | SofteningOperator = "power"
) -> dist.Categorical:
    """The categorical distribution at a temperature, to be drawn from and observed like another."""
    return dist.Categorical(logits=operator_of(op)(distribution.logits, T))


@dataclass(frozen=True)
class AxiomReport:
    """``failed``: of each axiom that does not hold, where it was seen not to."""

    failed: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not self.failed

    def __str__(self) -> str:
        if not self.failed:
            return "all axioms hold where they were tried"
        return "\n".join(f"{a} ({AXIOMS[a]}) fails: {why}" for a, why in self.failed.items())


def _trials(k: int, n: int, generator: torch.Generator) -> Tensor:
    """Distributions [n + k, k] inside the simplex: spread out ones, and some with equal entries."""
    weights = torch.distributions.Gamma(torch.tensor(0.4).double(), torch.tensor(1.0).double())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        p = weights.sample((n, k)) + 1e-12
    p[: n // 4, 1] = p[: n // 4, 0]
    p[: n // 8] += 1e-3 * p[: n // 8].sum(-1, keepdim=True)
    ties = torch.ones(k, k, dtype=torch.float64) + torch.tril(torch.ones(k, k).double())
    p = torch.cat([p, ties])
    return p / p.sum(-1, keepdim=True)


def check_axioms(
    op: SofteningOperator,
    K: int,
    Ts: Sequence[float] = (1.0, 1.5, 2.0, 4.0, 8.0, 20.0),
    n: int = 2000,
    seed: int = 0,
) -> AxiomReport:
    """Try the five axioms on random distributions of K outcomes, in float64.

    A failure is certain; that nothing fails proves nothing.

    Args:
        Ts: temperatures, at which ranking and continuity are tried, and between which entropy is.

    Errors:
        ValueError: fewer than two outcomes, or no temperature.
    """
    if K < 2 or not Ts:
        raise ValueError(f"two outcomes and one temperature are needed: {K}, {list(Ts)}")
    p = _trials(K, n, torch.Generator().manual_seed(seed))
    log_p = p.log()
    failed: dict[str, str] = {}

    def note(axiom: str, wrong: Tensor, T: float) -> None:
        """Which rows [n] are wrong at a temperature."""
        if axiom not in failed and bool(wrong.any()):
            row = p[int(wrong.int().argmax())]
            shown = ", ".join(f"{x:.4g}" for x in row.tolist())
            failed[axiom] = f"at T = {T:g}, p = ({shown})"

    def entropy(q: Tensor) -> Tensor:
        negative: Tensor = torch.special.xlogy(q, q).sum(-1)
        return -negative

    one = op(log_p, 1.0).exp()
    note("A4", (one - p).abs().amax(-1) > 1e-9, 1.0)
    last: Tensor | None = None
    inside = (0.9 * p + 0.1 / K).log()
    for T in sorted(Ts):
        q = op(log_p, T).exp()
        above = (p[:, :, None] - p[:, None, :]) > 1e-9
        equal = p[:, :, None] == p[:, None, :]
        ahead = q[:, :, None] - q[:, None, :]
        disordered = (above & (ahead <= 0)) | (equal & (ahead.abs() > 1e-12))
        note("A1", disordered.any(-1).any(-1), T)
        tilt = 1e-8 * torch.linspace(-1, 1, K, dtype=torch.float64)
        for near, moved in ((inside + tilt, T), (inside, T * (1 + 1e-8))):
            jump = op(near.log_softmax(-1), moved).exp() - op(inside, T).exp()
            note("A2", jump.abs().amax(-1) > 1e-3, T)
        now = entropy(q)
        if last is not None:
            note("A3", now < last - 1e-9, T)
        last = now
    note("A5", (op(log_p, 1e9).exp() - 1 / K).abs().amax(-1) > 1e-6, 1e9)
    try:
        sharp = op(log_p, 1e-3).exp()
    except ValueError:
        return AxiomReport(failed)
    top = log_p.topk(2, -1)
    clear = top.values[:, 0] - top.values[:, 1] > 0.1
    wrong = sharp.gather(-1, top.indices[:, :1]).squeeze(-1) < 1 - 1e-6
    note("A5", clear & wrong, 1e-3)
    return AxiomReport(failed)


def are_equivalent(
    first: SofteningOperator,
    second: SofteningOperator,
    student: Callable[[Tensor], Tensor],
    log_p: Tensor,
    T: float,
    tol: float = 1e-9,
) -> bool:
    """Whether a family of students comes to the same from either operator.

    Args:
        student: the best student of the family, as a function of the softened probabilities of the
            teacher [n, k]: the identity for students that can do everything, the mean over n for
            students without inputs.
        log_p: of the teacher [n, k].
        tol: the greatest difference.
    """
    one, other = (student(op(log_p, T).exp()) for op in (first, second))
    return bool((one - other).abs().max() <= tol)
