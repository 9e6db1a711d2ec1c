"""Forward-mode derivatives, compilers and exports, of every layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pushforward.kernels import uses_triton
from pushforward.nn.activations import Corrected, CRReLU, EntropyTunedActivation, crrelu
from pushforward.nn.attention import (
    NaLaAttention,
    NaLaBlock,
    SoftAttention,
    SoftBlock,
    newton_pinv,
    soft_attention,
)
from pushforward.nn.normalisation import EvoNorm, L1BatchNorm2d, L1LayerNorm, UnifiedNorm
from pushforward.nn.optim import SoftmaxRadiusController, softmax_radius
from pushforward.nn.quantisation import QConv2d, QLinear

SOFT: dict[str, Any] = {"num_landmarks": 2, "ridge": 0.1}
ROWS, IMAGES = (3, 8, 8), (3, 8, 4, 6)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "CRReLU": (CRReLU, ROWS),
    "CRReLU, channels": (lambda: CRReLU(num_parameters=8), IMAGES),
    "Corrected": (lambda: corrected(torch.distributions.Normal(0.0, 1.0)), ROWS),
    "Corrected, Laplace": (lambda: corrected(torch.distributions.Laplace(0.1, 1.0)), ROWS),
    "Corrected, Student": (lambda: corrected(torch.distributions.StudentT(4.0)), ROWS),
    "Corrected, Cauchy": (lambda: corrected(torch.distributions.Cauchy(0.1, 2.0)), ROWS),
    "Corrected, Gumbel": (lambda: corrected(torch.distributions.Gumbel(0.1, 2.0)), ROWS),
    "EntropyTunedActivation": (EntropyTunedActivation, ROWS),
    "SoftAttention, pool": (lambda: SoftAttention(8, 2, landmark="pool", **SOFT), ROWS),
    "SoftAttention, learned": (lambda: SoftAttention(8, 2, landmark="learned", **SOFT), ROWS),
    "SoftAttention, linspace": (
        lambda: SoftAttention(8, 2, landmark="linspace", norm="token", **SOFT),
        ROWS,
    ),
    "SoftBlock": (lambda: SoftBlock(8, 2, landmark="pool", norm="landmark", **SOFT), ROWS),
    "NaLaAttention": (lambda: Output(NaLaAttention(8, 2, local="conv1d")), ROWS),
    "NaLaBlock": (lambda: NaLaBlock(8, 2, local="conv1d", causal=True), ROWS),
    "EvoNorm S0": (lambda: EvoNorm(8, "S0", 4), IMAGES),
    "EvoNorm B0": (lambda: EvoNorm(8, "B0"), IMAGES),
    "UnifiedNorm": (lambda: UnifiedNorm(8), ROWS),
    "L1LayerNorm": (lambda: L1LayerNorm(8), ROWS),
    "L1BatchNorm2d": (lambda: L1BatchNorm2d(8), IMAGES),
    "QLinear": (lambda: QLinear(8, 4), ROWS),
    "QConv2d": (lambda: QConv2d(8, 4, 3, padding=1), IMAGES),
}
DIFFERENTIABLE = [name for name in LAYERS if not name.startswith("Q")]


def corrected(distribution: Any) -> nn.Module:
    return Corrected(nn.functional.silu, distribution, 0.3)


class Output(nn.Module):
    """The first of several outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)[0]
        return out


def made(name: str, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().to(dtype).eval(), torch.randn(shape, dtype=dtype)


# --- forward mode ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_forward_mode_is_the_transpose_of_backward(name: str) -> None:
    """<u, J v> by both, for the input and for all parameters together."""
    layer, x = made(name, torch.float64)
    params = {n: p.detach() for n, p in layer.named_parameters()}

    def call(x: Tensor, params: dict[str, Tensor]) -> Tensor:
        out: Tensor = torch.func.functional_call(layer, params, (x,))
        return out

    away = torch.randn_like(x), {n: torch.randn_like(p) for n, p in params.items()}
    out, change = torch.func.jvp(call, (x, params), away)
    u = torch.randn_like(out)
    back, down = torch.func.vjp(call, x, params)[1](u)
    expected = (back * away[0]).sum() + sum((down[n] * v).sum() for n, v in away[1].items())
    torch.testing.assert_close((u * change).sum(), expected)
    torch.testing.assert_close(out, layer(x))


@pytest.mark.parametrize("function", ["crrelu", "newton_pinv", "soft_attention"])
def test_derivatives_of_both_modes_and_orders(function: str) -> None:
    """gradcheck, gradgradcheck, and forward over forward against reverse over reverse."""
    torch.manual_seed(0)
    x = torch.randn(1, 1, 4, 3, dtype=torch.float64)
    spread = torch.randn(3, 3, dtype=torch.float64)
    square = spread @ spread.T + torch.eye(3, dtype=torch.float64)
    calls: dict[str, tuple[Callable[..., Tensor], tuple[Tensor, ...]]] = {
        "crrelu": (crrelu, (x[0, 0], torch.tensor([0.3, -0.2, 0.1]).double())),
        "newton_pinv": (lambda a: newton_pinv(a, 40), (square,)),
        "soft_attention": (
            lambda q, v, m: soft_attention(q, v, m, max_iter=60, ridge=0.1),
            (x, x.square(), x[:, :, ::2] + 0.1),
        ),
    }
    call, inputs = calls[function]
    free = tuple(each.clone().requires_grad_() for each in inputs)
    assert torch.autograd.gradcheck(call, free, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, free, check_fwd_over_rev=True)

    def along(t: Tensor) -> Tensor:
        return call(*(each + t * each.cos() for each in inputs)).square().sum()

    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)

    def slope(t: Tensor) -> Tensor:
        change: Tensor = torch.func.jvp(along, (t,), (one,))[1]
        return change

    second = torch.func.jvp(slope, (zero,), (one,))[1]
    torch.testing.assert_close(second, torch.func.grad(torch.func.grad(along))(zero))
    many = torch.func.vmap(slope)(torch.tensor([0.0, 0.1], dtype=torch.float64))
    torch.testing.assert_close(many[0], torch.func.grad(along)(zero))


@pytest.mark.parametrize("name", ["CRReLU", "Corrected", "SoftAttention, pool"])
def test_the_radius_controller_takes_them(name: str) -> None:
    layer, x = made(name)
    model = nn.Sequential(nn.Linear(8, 8), layer, nn.Linear(8, 4))
    controller = SoftmaxRadiusController(torch.optim.SGD(model.parameters(), lr=10.0), model)
    nn.functional.cross_entropy(model(x).flatten(0, 1), torch.arange(24) % 4).backward()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    controller.step(x)
    change = {n: p.detach() - before[n] for n, p in model.named_parameters()}
    found = softmax_radius(
        lambda p: torch.func.functional_call(model, p, (x,)), before, change, method="fd"
    )
    assert float(found.ratio) == pytest.approx(controller.applied, rel=0.05)


def test_triton_is_left_where_tangents_are_computed() -> None:
    class Elsewhere:
        is_cuda = True

    seen = []

    def call(x: Tensor) -> Tensor:
        seen.append(uses_triton("auto", Elsewhere()))  # type: ignore[arg-type]
        return x

    x = torch.ones(1)
    torch.func.jvp(call, (x,), (x,))
    torch.func.grad(lambda x: call(x).sum())(x)
    call(x)
    assert seen[0] is False and seen[1] == seen[2]


# --- compilers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_compiled_it_is_the_same_backward_too(name: str) -> None:
    layer, x = made(name)
    torch.compiler.reset()
    results = []
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        torch.manual_seed(1)
        at = x.clone().requires_grad_()
        out = call(at)
        inputs = (at, *layer.parameters())
        results.append((out.detach(), *torch.autograd.grad(out.square().sum(), inputs)))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_exported_it_takes_batches_of_any_size(name: str, strict: bool) -> None:
    layer, x = made(name)
    batch = torch.export.Dim("batch", min=2, max=64)
    shapes = ({0: batch},)
    exported = torch.export.export(layer, (x,), dynamic_shapes=shapes, strict=strict).module()
    more = torch.cat([x, 2 * x])
    torch.testing.assert_close(exported(more), layer(more))
    with pytest.raises((RuntimeError, AssertionError)):
        exported(more[:, :3])


def logistic() -> Any:
    """The law of log(u / (1 - u)), of density e^-x / (1 + e^-x)^2."""
    uniform = torch.distributions.Uniform(0.0, 1.0, validate_args=True)
    logit = [torch.distributions.SigmoidTransform().inv]
    return torch.distributions.TransformedDistribution(uniform, logit, validate_args=True)


def test_a_density_without_a_formula_compiles_and_is_not_exported() -> None:
    """p' = p (1 - 2 sigmoid(x)), with p = sigmoid'(x)."""
    layer = Corrected(torch.zeros_like, logistic(), 1.0)
    x = torch.linspace(-2, 2, 8)
    s = torch.sigmoid(x)
    expected = -s * (1 - s) * (1 - 2 * s)
    torch.compiler.reset()
    for call in (layer, torch.compile(layer, backend="aot_eager", fullgraph=True)):
        torch.testing.assert_close(call(x), expected, rtol=1e-4, atol=1e-5)
    for strict in (False, True):
        with pytest.raises(Exception, match="TransformedDistribution cannot be exported"):
            torch.export.export(layer, (x,), strict=strict)


@pytest.mark.parametrize("name", [name for name in LAYERS if name.startswith("Corrected")])
def test_slopes_of_densities(name: str) -> None:
    """By autograd, also for a law that checks its values."""
    layer: Any = made(name)[0]
    law = layer.distribution
    x = torch.linspace(-3, 3, 13, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(law.log_prob(x).exp().sum(), x)
    found = nn.functional.silu(x) - layer(x)
    torch.testing.assert_close(found, layer.eps.double() * slope)
    checked = type(law)(law.loc, law.scale, validate_args=True) if "Student" not in name else law
    torch.compiler.reset()
    compiled = torch.compile(corrected(checked), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), layer(x))
    assert "Student" in name or checked._validate_args


def test_a_density_whose_slope_is_asked_for_without_gradients() -> None:
    """p' of the normal law is -x p: with eps 1 and no activation it is all there is."""
    layer = Corrected(torch.zeros_like, torch.distributions.Normal(0.0, 1.0), 1.0)
    x = torch.linspace(-2, 2, 5)
    expected = x * torch.exp(-0.5 * x.square()) / (2 * torch.pi) ** 0.5
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)
