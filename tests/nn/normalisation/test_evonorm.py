"""EvoNorm: acceptance checks of arXiv 2004.02967, figures computed in float64."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import pytest
import torch
from support.digits import accuracy
from torch import Tensor, nn

from pushforward.nn.normalisation import EvoNorm, convert_bn_act, evonorm
from pushforward.nn.normalisation.evonorm import VARIANTS

A = ((7 * torch.arange(32, dtype=torch.float64)) % 11 - 5).div(4).reshape(2, 4, 2, 2)
SUMS = {
    "B0": -6.80036664,
    "B1": -6.12346446,
    "B2": 8.15356363,
    "S0": 6.08364608,
    "S1": 6.08364608,
    "S2": 6.04012553,
}
FIRST = {
    "B0": (-1.42947403, 0.34435810, -0.57178961, 0.56767172),
    "B1": (-1.42947403, 0.35014856, -0.57178961, 0.58358093),
    "B2": (-0.56767172, 0.57178961, -0.34435810, 1.42947403),
    "S0": (-0.34465844, 0.38533584, -0.23371800, 1.20297616),
    "S2": (-0.34363116, 0.38418731, -0.23302138, 1.19939059),
}


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


def layer(variant: Any, x: Tensor = A, **settings: Any) -> EvoNorm:
    return EvoNorm(x.shape[1], variant, settings.pop("groups", 2), dtype=x.dtype, **settings)


@pytest.mark.parametrize("variant", VARIANTS)
def test_values(variant: Any) -> None:
    out = layer(variant)(A)
    assert float(out.sum().detach()) == pytest.approx(SUMS[variant], abs=1e-7)
    if variant in FIRST:
        found = out[0, 0].flatten().detach()
        torch.testing.assert_close(found, f(FIRST[variant]), rtol=0, atol=1e-7)


def test_the_gate_and_the_running_variance() -> None:
    two = evonorm(A, v=f([2.0] * 4), variant="S0", groups=2)
    assert float(two.sum()) == pytest.approx(9.88485643, abs=1e-7)
    assert float(two[0, 0, 0, 0]) == pytest.approx(-0.11740074, abs=1e-7)
    half = layer("B0")
    with torch.no_grad():
        assert half.v is not None
        half.v.fill_(0.5)
        assert float(half(A).sum()) == pytest.approx(-4.35255628, abs=1e-7)
    expected = f([0.98738839, 0.95792411, 0.97633929, 0.95792411])
    torch.testing.assert_close(half.running_var, expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("variant", VARIANTS)
def test_invariance_to_scale(variant: Any) -> None:
    gap = float((layer(variant)(10 * A) - layer(variant)(A)).abs().max().detach())
    assert gap < 1e-4 if variant in ("B0", "B2") else gap > 0.3


@pytest.mark.parametrize("variant", VARIANTS)
def test_each_datum_alone(variant: Any) -> None:
    """The S layers always, the B layers in evaluation; in training these couple the batch."""
    net = layer(variant)
    if variant.startswith("B"):
        alone = torch.cat([net(A[:1]), net(A[1:])])
        assert float((alone - net(A)).abs().max().detach()) > 0.01
        net.eval()
    torch.testing.assert_close(torch.cat([net(A[:1]), net(A[1:])]), net(A), rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
def test_derivatives(variant: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 3, 3, dtype=torch.float64, generator=generator).requires_grad_()
    parameters = [torch.rand(4, dtype=torch.float64).requires_grad_() for _ in range(3)]

    def run(x: Tensor, weight: Tensor, bias: Tensor, v: Tensor) -> Tensor:
        return evonorm(x, weight, bias, v, variant=variant, groups=2)

    torch.autograd.gradcheck(run, (x, *parameters))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 4, 1, 3), (2, 4, 3, 2, 2)])
def test_any_number_of_dimensions(variant: Any, shape: tuple[int, ...]) -> None:
    """Spatial dimensions are one as well as several."""
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    net = layer(variant, x)
    torch.testing.assert_close(net(x), net(x.flatten(2)).reshape(shape))


def test_vectors() -> None:
    x = torch.randn(5, 8)
    assert EvoNorm(8, "S0", groups=2)(x).shape == (5, 8)
    with pytest.raises(ValueError, match="one element"):
        EvoNorm(8, "S0", groups=8)(x)
    with pytest.raises(ValueError, match="spatial"):
        EvoNorm(8, "B0")(x)


def test_without_activation_it_normalises() -> None:
    out = layer("S0", apply_act=False)(A)
    groups = out.reshape(2, 2, -1).var(-1, correction=0)
    torch.testing.assert_close(groups, torch.ones_like(groups), rtol=1e-4, atol=0)
    out = layer("B0", apply_act=False)(A)
    whole = out.var((0, 2, 3), correction=0)
    torch.testing.assert_close(whole, torch.ones_like(whole), rtol=1e-4, atol=0)
    assert layer("S0", apply_act=False).v is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("variant", VARIANTS)
def test_half_precision(dtype: torch.dtype, variant: Any) -> None:
    """Moments are taken in float32: numbers whose squares overflow are normalised."""
    x = (300 * A).to(dtype)
    out = layer(variant, x)(x)
    assert out.dtype == dtype
    assert bool(torch.isfinite(out).all())


def test_numbers_that_are_not_finite_do_not_reach_the_running_variance() -> None:
    net = layer("B0")
    bad = A.clone()
    bad[0, 0, 0, 0] = float("nan")
    assert not bool(torch.isfinite(net(bad)).all())
    assert torch.equal(net.running_var, torch.ones_like(A[0, :, 0, 0]))
    assert (int(net.num_batches_tracked), int(net.skipped_updates)) == (1, 1)


def test_evaluation_without_running_statistics() -> None:
    net = layer("B0", track_running_stats=False)
    trained = net(A)
    torch.testing.assert_close(net.eval()(A), trained)


def test_bad_input() -> None:
    cases: list[tuple[Any, type[Exception], str]] = [
        (lambda: EvoNorm(10, "S0"), ValueError, "32 groups do not divide 10"),
        (lambda: layer("S0")(A[:, :3]), ValueError, "4 channels are expected"),
        (lambda: EvoNorm(4, "S9"), ValueError, "B0, B1, B2, S0, S1, S2"),  # type: ignore[arg-type]
        (lambda: EvoNorm(4, "B0", eps=0.0), ValueError, "eps is positive"),
        (lambda: layer("B0")(A[:1, :, :1, :1]), ValueError, "one value per channel"),
        (lambda: EvoNorm(4, "S0", 2)(torch.ones(2, 4, 2, 2, dtype=torch.long)), TypeError, "float"),
        (lambda: evonorm(A, variant="S0", groups=3), ValueError, "3 groups do not divide the 4"),
    ]
    for case, error, text in cases:
        with pytest.raises(error, match=text):
            case()
    layer("B0").eval()(A[:1, :, :1, :1])
    assert EvoNorm(48, "S0", groups="auto").groups == 16


def test_conversion() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.SiLU()),
        nn.BatchNorm2d(8),
    )
    assert convert_bn_act(net) is net
    kinds = [type(m).__name__ for m in net.modules()][1:]
    assert kinds == ["Conv2d", "EvoNorm", "Sequential", "Conv2d", "EvoNorm", "BatchNorm2d"]
    assert net(torch.randn(2, 1, 9, 9)).shape == (2, 8, 5, 5)


def trained(norm: nn.Module) -> Any:
    """A batch normalisation that has been trained, in evaluation mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in (*norm.parameters(), *norm.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape) + 0.5)
    return norm.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    ("make", "act", "shape"),
    [
        (nn.BatchNorm1d, nn.ReLU, (3, 8, 5)),
        (nn.BatchNorm2d, nn.SiLU, (3, 8, 4, 5)),
        (nn.BatchNorm3d, nn.GELU, (3, 8, 2, 4, 3)),
    ],
)
def test_conversion_takes_over_what_was_trained(
    variant: Any, make: Any, act: Any, shape: tuple[int, ...]
) -> None:
    """The new layer is the formula with the old weight, bias, eps and variance."""
    norm = trained(make(8, eps=1e-3, momentum=0.3, dtype=torch.float64))
    norm.weight.requires_grad_(False)
    (new,) = convert_bn_act(nn.Sequential(norm, act()).eval(), variant)
    assert isinstance(new, EvoNorm) and not new.training
    assert new.weight is norm.weight and new.bias is norm.bias and new.eps == 1e-3
    x = torch.randn(shape, dtype=torch.float64)
    expected = evonorm(
        *(x, norm.weight, norm.bias, None, norm.running_var),
        **{"variant": variant, "groups": 8, "eps": 1e-3, "training": False},
    )
    torch.testing.assert_close(new(x), expected)
    assert not torch.allclose(new(x), EvoNorm(8, variant, 8, dtype=torch.float64).eval()(x))
    if variant.startswith("B"):
        assert new.momentum == 0.3
        assert torch.equal(new.running_var, norm.running_var)
        assert new.running_var is not norm.running_var


def test_conversion_of_bare_layers_and_names() -> None:
    bare = nn.BatchNorm2d(8, affine=False, track_running_stats=False)
    names = OrderedDict(first=nn.Conv2d(1, 8, 3), norm=bare, act=nn.ReLU(), last=nn.Flatten())
    net = convert_bn_act(nn.Sequential(names), "B0")
    assert [name for name, _ in net.named_children()] == ["first", "norm", "last"]
    new: Any = net.norm
    assert new.weight is None and new.bias is None and new.running_var is None and new.training
    other = convert_bn_act(nn.Sequential(nn.BatchNorm2d(8, momentum=None), nn.ReLU(), nn.ReLU()))
    assert [name for name, _ in other.named_children()] == ["0", "1"]
    act = nn.ReLU()
    shared = nn.Sequential(nn.BatchNorm2d(8), act, nn.Conv2d(8, 8, 1), act)
    kinds = [type(m).__name__ for m in convert_bn_act(shared)]  # type: ignore[attr-defined]
    assert kinds == ["EvoNorm", "Conv2d", "ReLU"]
    alone = nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU())
    assert len(convert_bn_act(alone)) == 4  # type: ignore[arg-type]


def test_state_compile_and_repr() -> None:
    assert repr(layer("S0")) == "EvoNorm(4, variant=S0, groups=2, eps=1e-05)"
    assert repr(layer("B1")) == "EvoNorm(4, variant=B1, eps=1e-05)"
    for variant in VARIANTS:
        first, second = layer(variant), layer(variant)
        first(A)
        second.load_state_dict(first.state_dict())
        torch.testing.assert_close(first.eval()(A), second.eval()(A))
        compiled = torch.compile(first, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(A), first(A))


# ---------------------------------------------------------------------------------------- training


def network(make: Any, seed: int) -> nn.Module:
    """Three convolutions, each with the layer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), make()),
        *(nn.Conv2d(32, 32, 3, stride=2, padding=1), make()),
        *(nn.Conv2d(32, 32, 3, padding=1), make()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10)),
    )


def mean_accuracy(make: Any, **about: Any) -> float:
    return sum(accuracy(network(make, seed), momentum=0.9, **about) for seed in range(3)) / 3


@pytest.mark.slow
def test_training() -> None:
    small = {"batch": 2, "rate": 0.005, "steps": 1500}
    s0 = mean_accuracy(lambda: EvoNorm(32, "S0", 8), **small)
    group = mean_accuracy(lambda: nn.Sequential(nn.GroupNorm(8, 32), nn.ReLU()), **small)
    assert s0 >= 0.90
    assert s0 >= group - 0.01
    large = {"batch": 64, "rate": 0.05, "steps": 300}
    assert mean_accuracy(lambda: EvoNorm(32, "S0", 8), **large) >= 0.965
    assert mean_accuracy(lambda: EvoNorm(32, "B0"), **large) >= 0.965


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_empty_batch(variant: Any) -> None:
    x = torch.zeros(0, 4, 3, 2, dtype=torch.float64)
    assert layer(variant, x).eval()(x).shape == x.shape
