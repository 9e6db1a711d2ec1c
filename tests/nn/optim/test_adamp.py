"""AdamP and SGDP: acceptance checks of arXiv 2006.08217, figures computed by hand."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward import dist, observe, sample
from pushforward.inference.vi import SVI, elbo, reparam
from pushforward.nn.optim import SGDP, AdamP, Ball, OptimisticMirrorDescent, project_radial


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


W, G = [[3.0, 4.0], [0.0, 5.0]], [[4.0, -3.0], [1.0, 0.0]]


def stepped(optimizer: Any, w: Any, g: Any, **settings: Any) -> tuple[Tensor, Any]:
    p = nn.Parameter(f(w))
    p.grad = f(g)
    made = optimizer([p], **settings)
    made.step()
    return p.detach(), made


def near(found: Tensor, expected: Any, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, f(expected), rtol=0, atol=atol)


@pytest.mark.parametrize("foreach", [None, True, False])
def test_first_steps(foreach: Any) -> None:
    about = {"lr": 0.1, "foreach": foreach}
    found, made = stepped(AdamP, W, G, **about)
    near(found, [[2.888, 4.084], [-0.1, 5]])
    assert made.projection_report()["0.0"]["view"] == "channel"
    decayed, _ = stepped(AdamP, W, G, weight_decay=0.01, **about)
    near(decayed, [[2.8877, 4.0836], [-0.1, 4.9995]])
    ahead, _ = stepped(AdamP, W, G, nesterov=True, **about)
    near(ahead, [[2.7872, 4.1596], [-0.19, 5]])
    plain, _ = stepped(SGDP, W, G, momentum=0.9, **about)
    near(plain, [[2.6, 4.3], [-0.1, 5]])


def test_the_layer_is_tried_after_the_channels() -> None:
    found, made = stepped(AdamP, torch.eye(2).tolist(), [[1, 0], [0, -1]], lr=0.1, weight_decay=0.1)
    near(found, [[0.899, 0], [0, 1.099]])
    assert made.projection_report()["0.0"]["view"] == "layer"


def test_a_radial_gradient_is_not_projected() -> None:
    found, made = stepped(AdamP, W, W, lr=0.1, weight_decay=0.1)
    near(found, [[2.87, 3.86], [0, 4.85]])
    report = made.projection_report()["0.0"]
    assert report["view"] == "none" and report["cosine"] == pytest.approx(1)


def test_without_a_test_it_is_adamw() -> None:
    torch.manual_seed(0)
    target = torch.randn(6, 4, dtype=torch.float64)
    ends = []
    for make, about in ((AdamP, {"delta": 0.0}), (torch.optim.AdamW, {})):
        torch.manual_seed(1)
        params = [nn.Parameter(torch.randn(6, 4).double()), nn.Parameter(torch.randn(4).double())]
        optimizer: Any = make(params, lr=0.05, weight_decay=0.1, **about)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50)
        for _ in range(50):
            optimizer.zero_grad()
            ((params[0] - target).square() * (1 + params[1].square())).sum().backward()
            optimizer.step()
            schedule.step()
        ends.append([p.detach() for p in params])
    for one, other in zip(*ends, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def sphere(
    optimizer: Any, beta: float, steps: int = 2000
) -> tuple[list[float], list[float], list[float]]:
    """Squared norms, squared step lengths, and the norms of heavy-ball momenta."""
    generator = torch.Generator().manual_seed(0)
    w = torch.randn(1, 50, generator=generator, dtype=torch.float64)
    p = nn.Parameter(w / w.norm())
    u = torch.randn(50, generator=generator, dtype=torch.float64)
    u = u / u.norm()
    made = optimizer(p)
    momentum = torch.zeros_like(w)
    norms, lengths, momenta = [1.0], [], []
    for _ in range(steps):
        noise = 0.3 * torch.randn(50, generator=generator, dtype=torch.float64)
        made.zero_grad()
        (-((u + noise) * (p / p.norm())).sum()).backward()
        assert p.grad is not None
        momentum = beta * momentum + p.grad
        before = p.detach().clone()
        made.step()
        norms.append(float(p.detach().square().sum()))
        lengths.append(float((p.detach() - before).square().sum()))
        momenta.append(float(momentum.square().sum()))
    return norms, lengths, momenta


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9])
def test_norms_grow_as_the_identity_says(beta: float) -> None:
    """Heavy ball: |w|^2 grows by lr^2 (|p_t|^2 + 2 sum_k beta^(t - k) |p_k|^2)."""
    norms, _, momenta = sphere(lambda p: torch.optim.SGD([p], 0.05, momentum=beta), beta)
    size, tail = 1.0, 0.0
    for t, square in enumerate(momenta):
        size += 0.05**2 * (square + 2 * tail)
        tail = beta * (tail + square)
        assert norms[t + 1] == pytest.approx(size, rel=1e-10)


def test_projection_slows_the_growth_down() -> None:
    """Measured 14.5 after 68.7 without projection; without momentum both are 6.7."""
    norms, lengths, _ = sphere(lambda p: SGDP([p], 0.05, momentum=0.9), 0.9)
    assert norms[-1] == pytest.approx(1 + sum(lengths), rel=1e-5)
    heavy = sphere(lambda p: torch.optim.SGD([p], 0.05, momentum=0.9), 0.9)[0]
    assert norms[-1] < 0.35 * heavy[-1]
    bare = sphere(lambda p: SGDP([p], 0.05), 0.0)[0]
    plain = sphere(lambda p: torch.optim.SGD([p], 0.05), 0.0)[0]
    assert bare[-1] == pytest.approx(plain[-1], rel=1e-6)


def test_the_function_is_the_optimiser() -> None:
    torch.manual_seed(0)
    for g in (torch.randn(4, 3, 2), torch.zeros(4, 3, 2)):
        w, u = torch.randn(4, 3, 2), torch.randn(4, 3, 2)
        for mode in ("auto", "channel", "layer", "off"):
            q, ratio, view = project_radial(w, g, u, mode=mode)  # type: ignore[arg-type]
            assert q.shape == u.shape
            if int(view) == 1:
                assert float((q * w).flatten(1).sum(1).abs().max()) < 1e-5
            if int(view) == 2:
                assert float((q * w).sum().abs()) < 1e-5
            assert float(ratio) == pytest.approx(0.1 if int(view) else 1.0)
    each = torch.vmap(lambda w, g, u: project_radial(w, g, u)[0])
    batch = torch.randn(3, 5, 4, 2)
    torch.testing.assert_close(each(*batch)[0], project_radial(*batch[:, 0])[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("make", [AdamP, lambda params, lr: SGDP(params, lr, momentum=0.9)])
def test_odd_parameters(dtype: torch.dtype, make: Any) -> None:
    params = [
        nn.Parameter(torch.randn(shape).to(dtype))
        for shape in ((3, 1, 2, 2), (1, 4), (5,), (0, 3), ())
    ]
    unused = nn.Parameter(torch.ones(2))
    made = make([*params, unused], lr=0.1)
    for p in params:
        p.grad = torch.zeros_like(p) if p.ndim == 1 else torch.randn_like(p)
    made.step()
    assert all(bool(p.isfinite().all()) and p.dtype == dtype for p in params)
    assert torch.equal(unused, torch.ones(2))


def test_channels_may_be_elsewhere() -> None:
    torch.manual_seed(0)
    w, g = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    ours, _ = stepped(AdamP, w.tolist(), g.tolist(), projection="channel", channel_axis=1)
    turned, _ = stepped(AdamP, w.T.tolist(), g.T.tolist(), projection="channel")
    torch.testing.assert_close(ours, turned.T)
    off, _ = stepped(AdamP, W, G, lr=0.1, projection="off")
    adam, _ = stepped(torch.optim.AdamW, W, G, lr=0.1, weight_decay=0.0)
    torch.testing.assert_close(off, adam)


def test_state_goes_on_and_closures_work() -> None:
    def run(p: Tensor, made: Any, steps: int) -> float:
        def closure() -> float:
            made.zero_grad()
            loss = (p / p.norm(dim=1, keepdim=True) - 0.3).square().sum()
            loss.backward()
            return float(loss.detach())

        return [made.step(closure) for _ in range(steps)][-1]

    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(3, 4))
    made = AdamP([{"params": [p], "lr": 0.05}])
    run(p, made, 5)
    q = nn.Parameter(p.detach().clone())
    other = AdamP([q])
    other.load_state_dict(copy.deepcopy(made.state_dict()))
    assert run(p, made, 5) == run(q, other, 5)
    assert torch.equal(p, q)


def test_maximize() -> None:
    down, _ = stepped(AdamP, W, G, lr=0.1)
    up, _ = stepped(AdamP, W, (-f(G)).tolist(), lr=0.1, maximize=True)
    assert torch.equal(down, up)


def param(**about: Any) -> Any:
    return [nn.Parameter(torch.ones(2, 2, **about))]


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: AdamP(param(), lr=-1), ValueError, "lr is not negative"),
        (lambda: AdamP(param(), eps=0), ValueError, "eps is positive"),
        (lambda: AdamP(param(), betas=(0.9, 1.0)), ValueError, "betas"),
        (lambda: AdamP(param(), delta=-0.1), ValueError, "delta"),
        (lambda: AdamP(param(), wd_ratio=-0.1), ValueError, "wd_ratio"),
        (lambda: AdamP(param(), projection="row"), ValueError, "not 'row'"),  # type: ignore[arg-type]
        (lambda: SGDP(param(), 0.1, momentum=1.0), ValueError, "momentum is in"),
        (lambda: SGDP(param(), 0.1, nesterov=True), ValueError, "needs momentum"),
        (lambda: AdamP(param(dtype=torch.complex64)), TypeError, "complex"),
        (lambda: project_radial(*torch.ones(3, 2, 2), mode="row"), ValueError, "not 'row'"),  # type: ignore[arg-type, misc]
    ],
)
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_bad_gradients() -> None:
    p = nn.Parameter(torch.ones(2, 2))
    made = AdamP([p])
    p.grad = torch.ones(2, 2).to_sparse()
    with pytest.raises(RuntimeError, match="no sparse gradients"):
        made.step()
    p.grad = torch.full((2, 2), math.nan)
    made.step()
    assert bool(p.isnan().any())


@pytest.mark.parametrize(
    "make",
    [
        lambda p: AdamP(p, lr=0.05, projection="off"),
        lambda p: SGDP(p, 0.05, momentum=0.5, projection="off"),
        lambda p: OptimisticMirrorDescent(p, domain=Ball(3.0), grad_bound=10.0),
    ],
)
def test_variational_inference_takes_them(make: Any) -> None:
    """The mean of a normal guide goes to that of the posterior, 0.6 of the observation."""
    loc = nn.Parameter(torch.zeros(()))

    def model(y: Tensor) -> None:
        mu = sample("mu", dist.Normal(0.0, 1.0))
        observe("y", dist.Normal(mu, (2 / 3) ** 0.5), y)

    def guide(y: Tensor) -> None:
        sample("mu", reparam(dist.Normal(loc, 0.4**0.5)))

    torch.manual_seed(0)
    svi = SVI(elbo(model, guide), make([loc]), samples=8, compiled=False, progress=False)
    svi.run(torch.tensor(2.0), steps=300)
    assert float(loc.detach()) == pytest.approx(1.2, abs=0.15)
