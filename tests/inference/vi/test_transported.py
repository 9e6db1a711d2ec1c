"""Guides by bijections of Pyro: their log-determinants, lanes and graphs, and what is refused."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pyro.distributions.transforms as maps
import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward import dist, factor, sample
from pushforward.errors import GuideError
from pushforward.inference.vi import SVI, Captured, MeanField, Transported, elbo
from pushforward.inference.vi.captured import Replayed

MAKERS: dict[str, Any] = {
    "coupling": partial(maps.affine_coupling, hidden_dims=[8]),
    "autoregressive": partial(maps.affine_autoregressive, hidden_dims=[8]),
    "spline": maps.spline,
    "spline coupling": partial(maps.spline_coupling, hidden_dims=[8]),
    "spline autoregressive": partial(maps.spline_autoregressive, hidden_dims=[8]),
    "planar": maps.planar,
    "radial": maps.radial,
    "householder": maps.householder,
    "permute": maps.permute,
    "leaky": lambda d: maps.leaky_relu(),
}


def banana() -> None:
    a = sample("a", dist.Normal(0.0, 1.0))
    sample("b", dist.Normal(a**2, 0.3))
    sample("c", dist.HalfNormal(1.0))


def perturbed(guide: Transported, size: float) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in guide.parameters():
            p.add_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))


@pytest.mark.parametrize("name", MAKERS)
def test_the_determinant_is_that_of_the_jacobian(name: str, double: None) -> None:
    guide = Transported(banana, transforms=[MAKERS[name], MAKERS["permute"], MAKERS[name]])
    perturbed(guide, 0.7)
    before = [set(vars(move)) for move in guide.moves]
    for k in range(3):
        noise = torch.tensor([0.3, -1.1, 0.8]) * (k + 0.5)
        _, log_det = guide.move(noise)
        jacobian: Any = torch.autograd.functional.jacobian(lambda x: guide.move(x)[0], noise)
        exact = float(torch.linalg.slogdet(jacobian)[1])
        assert float(log_det.detach()) == pytest.approx(exact, abs=1e-7)
    assert [set(vars(move)) for move in guide.moves] == before


@pytest.mark.parametrize(
    "name", quick(2, ["spline", "planar", *sorted(MAKERS.keys() - {"spline", "planar"})])
)
def test_lanes_and_graphs_do_what_single_runs_do(name: str, double: None) -> None:
    guide = Transported(banana, transforms=[MAKERS[name]])
    perturbed(guide, 0.3)
    bound, parameters = elbo(banana, guide), list(guide.parameters())
    graph, replay = (
        Captured(bound, parameters, 2, compiled=False),
        Replayed(bound, parameters, 2),
    )
    torch.manual_seed(2)
    one = graph()
    torch.manual_seed(2)
    two = replay()
    torch.testing.assert_close(one.values, two.values)
    torch.testing.assert_close(one.by, two.by)
    torch.manual_seed(2)
    with torch.no_grad():
        noise = torch.randn(2, 3)
    torch.manual_seed(2)
    values = [_log_weight(guide, row) for row in noise]
    torch.testing.assert_close(two.values, torch.stack(values))
    guide.load_state_dict(copy.deepcopy(guide).state_dict())


def _log_weight(guide: Transported, noise: Tensor) -> Tensor:
    """By hand: log p at the latents, with the Jacobian of c = exp(u), less log q of the noise."""
    u, log_det = guide.move(noise)
    values, log_unconstraining = guide.layout.unpack(u)
    a, b, c = values["a"], values["b"], values["c"]
    log_p = dist.Normal(0.0, 1.0).log_prob(a) + dist.Normal(a**2, 0.3).log_prob(b)
    log_p = log_p + dist.HalfNormal(1.0).log_prob(c)
    log_q = dist.Normal(0.0, 1.0).log_prob(noise).sum() - log_det - log_unconstraining
    return (log_p - log_q).detach()


class Wrong(maps.AffineCoupling):  # type: ignore[misc]
    """A seeded fault: the determinant is half of what it is."""

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return 0.5 * super().log_abs_det_jacobian(x, y)


def halved(d: int) -> Any:
    right = maps.affine_coupling(d, [8])
    right.__class__ = Wrong
    return right


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (halved, "log-determinant of halved is wrong"),
        (maps.sylvester, "log-determinant of sylvester is wrong"),
        (maps.matrix_exponential, "log-determinant of matrix_exponential is wrong"),
        (lambda d: maps.permute(d, torch.arange(d + 1)), "no bijection of 3 real coordinates"),
        (lambda d: torch.nn.Linear(d, d), "no bijection of 3 real coordinates"),
    ],
    ids=["halved", "sylvester", "exponential", "permutation", "layer"],
)
def test_what_is_wrong_is_refused(make: Any, match: str) -> None:
    with pytest.raises(GuideError, match=match):
        Transported(banana, transforms=[make])


def test_one_coordinate_has_no_coupling() -> None:
    def one() -> None:
        sample("a", dist.Normal(0.0, 1.0))

    Transported(one, transforms=[maps.spline])
    with pytest.raises(GuideError, match="no bijection of 1 real coordinates"):
        Transported(one, transforms=[maps.affine_coupling])


def test_a_spline_comes_closer_than_independent_normals() -> None:
    """Two humps, of evidence one: the bound of a normal guide is about -log 2, that of a spline
    about zero."""

    def humps() -> None:
        x = sample("x", dist.Normal(0.0, 10.0))
        parts = torch.stack([dist.Normal(m, 0.5).log_prob(x) for m in (-1.5, 1.5)])
        factor("humps", parts.logsumexp(0) - math.log(2.0) - dist.Normal(0.0, 10.0).log_prob(x))

    found = {}
    for kind, make in (
        ("normal", MeanField),
        ("spline", partial(Transported, transforms=[maps.spline])),
    ):
        torch.manual_seed(0)
        guide = make(humps)
        with torch.no_grad():
            guide.log_scale.fill_(math.log(0.7))
        optimizer = torch.optim.Adam(guide.parameters(), lr=0.03)
        svi = SVI(elbo(humps, guide), optimizer, samples=16, compiled=False, progress=False)
        found[kind] = svi.run(steps=250).value
    assert found["normal"] < -0.3
    assert found["spline"] > -0.1
