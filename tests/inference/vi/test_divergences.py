"""The table of f-divergences: its laws, and values by hand and by mpmath."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pushforward import dist, program, sample
from pushforward.inference.vi import Divergence, divergence, enum, f_divergence
from pushforward.inference.vi.divergences import DIVERGENCES, alpha_divergence

ALPHAS = [alpha_divergence(a) for a in (-1.5, -1, 0.3, 0.5, 1.7, 2, 3)]
SCALED = [divergence("kl").scaled(3), divergence("hellinger").scaled(0.5)]
ALL = [*DIVERGENCES.values(), *ALPHAS, *SCALED]
DUALS = [
    ("kl", "reverse_kl"),
    ("pearson", "neyman"),
    ("jensen_shannon", "jensen_shannon"),
    ("total_variation", "total_variation"),
    ("hellinger", "hellinger"),
]
P, Q = [0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]


@pytest.fixture(autouse=True)
def everything_is_double(double: None) -> None:
    """All figures are of float64."""


def grid() -> Tensor:
    """log t, not at the kink of total variation."""
    return torch.linspace(-4, 4, 160)


def faults(d: Divergence) -> list[str]:
    """The laws that a divergence breaks."""
    s, found = grid(), []
    t = s.exp()
    if abs(float(d.f(torch.zeros(())))) > 1e-15:
        found.append("f(1) = 0")
    slope = torch.func.vmap(torch.func.grad(d.f))(s) / t
    if not torch.allclose(d.slope(s), slope, rtol=1e-10, atol=1e-12):
        found.append("slope")
    curve = torch.func.vmap(torch.func.grad(d.slope))(s) * t  # f'' t^2 = (d f' / dl) t
    if not torch.allclose(d.weight(s), curve, rtol=1e-9, atol=1e-12):
        found.append("weight")
    if bool((d.slope(s).diff() < -1e-12).any()):
        found.append("convexity")
    u = d.slope(s)
    if d.conjugate is not None:
        if not torch.allclose(d.conjugate(u), u * t - d.f(s), rtol=1e-8, atol=1e-9):
            found.append("Fenchel's equality")
        young = d.conjugate(u)[:, None] + d.f(s) - u[:, None] * t
        if bool((young < -1e-8 * (1 + (u[:, None] * t).abs())).any()):
            found.append("Fenchel's inequality")
    far = torch.tensor([-200.0, 200.0])
    if math.isfinite(d.at_zero) and abs(float(d.f(far[0])) - d.at_zero) > 1e-8:
        found.append("at zero")
    if math.isfinite(d.at_infinity) and abs(float(d.slope(far[1])) - d.at_infinity) > 1e-8:
        found.append("at infinity")
    return found


@pytest.mark.parametrize("d", ALL, ids=repr)
def test_laws(d: Divergence) -> None:
    assert faults(d) == []
    assert float(d(torch.tensor(-math.inf))) == d.at_zero


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        ({"f": lambda s: s.exp() * s + 0.1}, "f(1) = 0"),
        ({"slope": lambda s: s}, "slope"),
        ({"weight": lambda s: s.exp().square()}, "weight"),
        ({"f": lambda s: -s.exp() * s, "slope": lambda s: -s - 1}, "convexity"),
        ({"conjugate": torch.exp}, "Fenchel's equality"),
        ({"conjugate": lambda u: u - 1}, "Fenchel's inequality"),
        ({"at_zero": 0.5}, "at zero"),
        ({"at_infinity": 0.5}, "at infinity"),
    ],
)
def test_broken_laws_are_noticed(fault: dict[str, Any], law: str) -> None:
    assert law in faults(dataclasses.replace(divergence("kl"), **fault))


@pytest.mark.parametrize(("first", "second"), DUALS)
def test_duals_change_the_laws(first: str, second: str) -> None:
    s = grid()
    f, g = divergence(first), divergence(second)
    torch.testing.assert_close(s.exp() * f.f(-s), g.f(s), rtol=1e-12, atol=1e-13)
    p, q = torch.tensor(P), torch.tensor(Q)
    torch.testing.assert_close(f.between(p, q), g.between(q, p))
    for a in (-1.5, 0.3, 2.0):
        f, g = alpha_divergence(a), alpha_divergence(1 - a)
        torch.testing.assert_close(s.exp() * f.f(-s), g.f(s), rtol=1e-11, atol=1e-12)


def test_the_alpha_family_has_the_others_as_members() -> None:
    s = grid()
    for a, name, factor in ((2, "pearson", 0.5), (-1, "neyman", 0.5), (0.5, "hellinger", 2)):
        torch.testing.assert_close(alpha_divergence(a).f(s), factor * divergence(name).f(s))
    assert alpha_divergence(1) is divergence("kl")
    assert alpha_divergence(0) is divergence("reverse_kl")
    for a, name in ((1 + 1e-7, "kl"), (1e-7, "reverse_kl")):
        near = alpha_divergence(a).between(torch.tensor(P), torch.tensor(Q))
        exact = divergence(name).between(torch.tensor(P), torch.tensor(Q))
        assert float(near) == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kl", sum(p * math.log(4 * p) for p in P)),
        ("reverse_kl", sum(math.log(1 / (4 * p)) / 4 for p in P)),
        ("total_variation", 0.3),
        ("pearson", sum((p - 0.25) ** 2 / 0.25 for p in P)),
        ("neyman", 1.0),
        ("hellinger", sum((math.sqrt(p) - 0.5) ** 2 for p in P)),
        ("jensen_shannon", 0.1301599958),
    ],
)
def test_values_by_hand(name: str, value: float) -> None:
    """The last one, and that 0.2441743181, 0.46 and so on agree, from arXiv 2302.08215's check."""
    d = divergence(name)
    found = float(d.between(torch.tensor(P), torch.tensor(Q)))
    assert found == pytest.approx(value, abs=1e-10)
    u = d.slope((torch.tensor(P) / torch.tensor(Q)).log())
    assert d.conjugate is not None
    dual = (torch.tensor(P) * u).sum() - (torch.tensor(Q) * d.conjugate(u)).sum()
    assert float(dual) == pytest.approx(value, abs=1e-9)  # the supremum is reached


@pytest.mark.parametrize("d", ALL, ids=repr)
@pytest.mark.parametrize("gone", [0, 1])
def test_derivatives_between_laws(d: Divergence, gone: int) -> None:
    """By p: f'(t); by q: f(t) - t f'(t); also beside an outcome that neither law has."""
    p, q = (torch.tensor([*x, *[0.0] * gone]).requires_grad_() for x in (P, Q))
    found = torch.autograd.grad(d.between(p, q), (p, q))
    t = torch.tensor(P) / torch.tensor(Q)
    slope = d.slope(t.log())
    torch.testing.assert_close(found[0][:4], slope)
    torch.testing.assert_close(found[1][:4], d.f(t.log()) - t * slope)
    assert bool(torch.stack(found)[:, 4:].eq(0).all())


def test_sums_of_divergences() -> None:
    s, get = grid(), divergence
    both = get("kl").f(s) + get("reverse_kl").f(s)
    torch.testing.assert_close(get("jeffreys").f(s), both)
    rest = get("reverse_kl").f(s) - get("jensen_shannon").f(s)
    torch.testing.assert_close(get("softened").f(s), rest, rtol=1e-12, atol=1e-13)
    p, q = torch.tensor(P), torch.tensor(Q)
    middle = 2 * get("kl").between((p + q) / 2, p)
    torch.testing.assert_close(get("softened").between(p, q), middle)
    with pytest.raises(ValueError, match="positive"):
        get("kl").scaled(0)


def test_mass_where_the_other_has_none() -> None:
    p, q = torch.tensor([0.5, 0.5, 0.0, 0.0]), torch.tensor([0.0, 0.5, 0.5, 0.0])
    found = {name: float(d.between(p, q)) for name, d in DIVERGENCES.items()}
    infinite = {"kl", "reverse_kl", "pearson", "neyman", "jeffreys", "softened"}
    assert {name for name, value in found.items() if value == math.inf} == infinite
    assert found["total_variation"] == 0.5 and found["hellinger"] == 1.0
    assert found["jensen_shannon"] == pytest.approx(math.log(2))
    assert float(divergence("kl").between(torch.tensor([0.0, 1]), torch.tensor([0.5, 0.5]))) == (
        pytest.approx(math.log(2))
    )
    assert float(alpha_divergence(0.5).between(p, q)) == pytest.approx(2.0)
    leaf = q.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence("hellinger").between(p, leaf), leaf)
    assert bool(slope[1:3].isfinite().all())


def test_objectives_take_them() -> None:
    """By name, the objective is minus the divergence of the target from the guide; exactly."""

    def law(p: list[float]) -> Any:
        @program
        def drawn() -> None:
            sample("x", enum(dist.Categorical(torch.tensor(p))))

        return drawn

    for name in DIVERGENCES:
        exact = divergence(name).between(torch.tensor(P), torch.tensor(Q))
        found = f_divergence(law(P), law(Q), name).surrogate()
        torch.testing.assert_close(found, -exact)
        found = f_divergence(law(P), law(Q), divergence(name)).surrogate()
        torch.testing.assert_close(found, -exact)
    with pytest.raises(ValueError, match=r"one of .*hellinger"):
        divergence("kl2")
    with pytest.raises(ValueError, match="finite"):
        alpha_divergence(math.nan)
