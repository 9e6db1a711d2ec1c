"""ShiftQuant: acceptance checks of arXiv 2411.10948, as far as its abstract fixes them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.digits import digits
from support.sizes import quick
from torch import Tensor, nn

from pushforward.nn.quantisation import (
    QConfig,
    QConv2d,
    QLinear,
    QTensor,
    QuantL1Norm,
    ShiftTensor,
    convert_to_integer_training,
    quantize_shift,
    quantize_tensor,
    shift_matmul,
)
from pushforward.nn.quantisation.shift import MOST_PRODUCTS


def f(x: Any) -> Tensor:
    return torch.tensor(x, dtype=torch.float64)


X = f([[1, -0.3, 0.05, 0.0125], [-0.7, 0.25, -0.02, 0.006], [0.35, -0.1, 0.04, -0.01]])
W = f([[1, -2], [0.5, 1.5], [-1, 2], [2, 0.25]])


def test_a_matrix_by_hand() -> None:
    few = quantize_shift(X, 4, 4, rounding="nearest")
    assert float(few.scale) == pytest.approx(1 / 7, abs=1e-15)
    assert few.shift.tolist() == [0, 1, 3, 3]
    assert few.q.tolist() == [[7, -4, 3, 1], [-5, 4, -1, 0], [2, -1, 2, -1]]
    shifted = few.shifted_int8()
    assert shifted.dtype == torch.int8
    assert shifted.tolist() == [[56, -16, 3, 1], [-40, 16, -1, 0], [16, -4, 2, -1]]
    error = few.dequantize() - X
    assert float(error.abs().max()) == pytest.approx(0.06428571, abs=1e-8)
    assert float(error.square().mean()) == pytest.approx(0.0005662334, abs=1e-10)
    flat = quantize_shift(X, 4, 1, rounding="nearest").dequantize() - X
    assert float(flat.square().mean()) == pytest.approx(0.0010371093, abs=1e-10)
    own = X.abs().amax(0) / 7
    ideal = own * (X / own).round() - X
    assert float(ideal.square().mean()) == pytest.approx(0.0003835804, abs=1e-10)


def test_a_product_by_hand_on_both_paths() -> None:
    few, weight = quantize_shift(X, 4, 4, rounding="nearest"), quantize_tensor(W, 8)
    assert float(weight.scale) == pytest.approx(2 / 127, abs=1e-15)
    whole = few.shifted_int8().int() @ weight.q.int()
    assert whole.tolist() == [[3007, -8235], [-1984, 6473], [641, -2174]]
    expected = f([[0.84561305, -2.31580427], [-0.55793026, 1.82030371], [0.18025872, -0.61136108]])
    outs = [shift_matmul(few, weight, path=path) for path in ("A", "B", "auto")]  # type: ignore[arg-type]
    torch.testing.assert_close(outs[0], expected, rtol=0, atol=1e-8)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])
    assert shift_matmul(few, weight, torch.float32).dtype == torch.float32


def test_scales_are_exact_at_powers_of_two() -> None:
    """A channel whose greatest entry is just R / 2 is shifted; one above it is not."""
    above = math.nextafter(0.5, 1.0)
    few = quantize_shift(f([[1.0, 0.5, above, 2.0**-9, 0.0]]), 4, 16, rounding="nearest")
    assert few.shift.tolist() == [0, 1, 0, 9, 15]
    assert few.q.abs().max() <= 7


def test_nothing_is_clipped() -> None:
    torch.manual_seed(0)
    for bits in range(2, 9):
        for groups in (1, 3, 16):
            x = torch.randn(50, 40, dtype=torch.float64) * torch.exp2(-12 * torch.rand(40))
            few = quantize_shift(x, bits, groups, rounding="nearest")
            step = few.scale * torch.exp2(-few.shift.double())
            assert bool(((few.dequantize() - x).abs() <= 0.5 * step * (1 + 1e-12)).all())


@pytest.mark.parametrize("n", quick(1, [5_000, 20_000]))
def test_stochastic_rounding_is_unbiased(n: int) -> None:
    """At 5 standard errors of 12 means of n draws the level is 12 * 6e-7 < 1e-5."""
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([quantize_shift(X, generator=generator).dequantize() for _ in range(n)])
    step = X.abs().max() / 7 * torch.exp2(-quantize_shift(X).shift.double())
    part = (X / step) - (X / step).floor()
    error = step * (part * (1 - part) / len(draws)).sqrt()
    assert bool(((draws.mean(0) - X).abs() <= 5 * error + 1e-12).all())
    assert bool(((draws.var(0) - step**2 * part * (1 - part)).abs() < 0.05 * step**2).all())


def test_a_generator_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    x = torch.randn(30, 20)
    first, again, other = (
        quantize_shift(x, generator=torch.Generator().manual_seed(seed)).q for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    state = torch.get_rng_state()
    quantize_shift(x, rounding="nearest")
    quantize_shift(x, generator=torch.Generator().manual_seed(0))
    assert torch.equal(state, torch.get_rng_state())


def total_variance(x: Tensor, step: Tensor) -> float:
    part = x / step - (x / step).floor()
    return float((step**2 * part * (1 - part)).sum())


def test_the_order_of_variances() -> None:
    """Variances are exact, from the fractional parts."""
    torch.manual_seed(0)
    x = torch.randn(128, 256, dtype=torch.float64) * torch.exp2(-8 * torch.rand(256).double())
    own = total_variance(x, x.abs().amax(0) / 7)
    shifted = {}
    for groups in (1, 4, 8):
        few = quantize_shift(x, 4, groups)
        shifted[groups] = total_variance(x, few.scale * torch.exp2(-few.shift.double()))
    assert own <= shifted[8] <= shifted[4] <= shifted[1]
    assert shifted[4] / shifted[1] <= 0.35
    assert shifted[8] / own <= 4


def small_net(config: QConfig | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(6):
        layers += [nn.Linear(64, 64), nn.LayerNorm(64), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Linear(64, 10))
    if config is not None:
        convert_to_integer_training(net, config, eight_bits=())
    return net


def only_gradients(bits: int, groups: int) -> QConfig:
    return QConfig(None, None, bits, groups, backend="fake")


@pytest.mark.slow
def test_fidelity_of_gradients() -> None:
    """Relative variances measured: .0615 of .1522 at 4 bits, .0048 of .0153 at 6."""
    x, _, y, _ = digits()
    x = x.flatten(1)
    torch.manual_seed(0)
    net = small_net(None)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(100):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimizer.step()

    def gradient(net: nn.Module) -> Tensor:
        loss = nn.functional.cross_entropy(net(x[:64]), y[:64])
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(net.parameters()))])

    exact = gradient(net)
    for bits, most in ((4, 0.45), (6, 0.35)):
        relative = {}
        for groups in (1, 4):
            few = small_net(only_gradients(bits, groups))
            few.load_state_dict(net.state_dict())
            draws = torch.stack([gradient(few) for _ in range(40)])
            relative[groups] = float((draws - exact).square().sum(1).mean() / exact.square().sum())
            mean = float((draws.mean(0) - exact).square().sum() / exact.square().sum())
            assert mean <= 1.3 / 40 * relative[groups]
        assert relative[4] <= most * relative[1]


@pytest.mark.slow
def test_training_with_gradients_of_three_bits() -> None:
    """Measured: .855 with groups, .798 with one scale, .890 in floating point."""
    x, x_test, y, y_test = digits()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    factors = torch.exp(torch.linspace(-4, 2, 64))[order]
    x, x_test = x.flatten(1) * factors, x_test.flatten(1) * factors

    def accuracy(config: QConfig | None) -> float:
        found = []
        for seed in range(3):
            torch.manual_seed(seed)
            net = small_net(config)
            optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
            for _ in range(300):
                rows = torch.randint(len(x), (64,))
                optimizer.zero_grad()
                nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
                optimizer.step()
            found.append(float((net(x_test).argmax(1) == y_test).double().mean()))
        return sum(found) / 3

    plain, flat, shifted = (
        accuracy(config) for config in (None, only_gradients(3, 1), only_gradients(3, 4))
    )
    assert shifted >= flat + 0.02
    assert shifted >= plain - 0.05


@pytest.mark.parametrize("scale", ["tensor", "channel"])
@pytest.mark.parametrize("groups", [1, 4, 8])
def test_whole_numbers_do_what_their_meanings_do(scale: Any, groups: int) -> None:
    """The back ends "int" and "fake" agree, output and gradients, for the same draws."""
    results = []
    for backend in ("int", "fake"):
        torch.manual_seed(0)
        config = QConfig(4, 5, 6, groups, scale, backend)  # type: ignore[arg-type]
        layer = QLinear(12, 7, qconfig=config, dtype=torch.float64)
        x = torch.randn(3, 5, 12, dtype=torch.float64, requires_grad=True)
        out = layer(x)
        weight = torch.randn(3, 5, 7, dtype=torch.float64)
        loss = (out * weight).sum()
        results.append([out, *torch.autograd.grad(loss, [layer.weight, layer.bias])])
        if scale == "tensor":
            results[-1].append(torch.autograd.grad((layer(x) * weight).sum(), x)[0])
    for whole, meant in zip(*results, strict=True):
        torch.testing.assert_close(whole, meant, rtol=1e-12, atol=1e-12)


def test_gradients_of_channels_are_unbiased() -> None:
    """With a scale for each output channel dx is drawn otherwise, and has the same mean.

    2000 draws, 5 standard errors of 24 means: level below 2e-5.
    """
    torch.manual_seed(0)
    layer = QLinear(6, 5, qconfig=QConfig(8, 8, 4, weight_scale="channel"), dtype=torch.float64)
    x = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 5, dtype=torch.float64)
    draws = torch.stack([torch.autograd.grad((layer(x) * weight).sum(), x)[0] for _ in range(2000)])
    meant = weight @ quantize_tensor(layer.weight.T, 8, per_column=True).dequantize().T
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - meant).abs() <= 5 * error + 1e-12).all())
    assert not torch.allclose(draws[0], draws[1])


def test_eight_bits_come_near_a_plain_layer() -> None:
    torch.manual_seed(0)
    config = QConfig(8, 8, 8)
    for plain, layer, shape in (
        (nn.Linear(20, 9), QLinear(20, 9, qconfig=config), (32, 20)),
        (
            nn.Conv2d(3, 5, 3, stride=(2, 1), padding=1, dilation=(1, 2)),
            QConv2d(3, 5, 3, stride=(2, 1), padding=1, dilation=(1, 2), qconfig=config),
            (4, 3, 9, 8),
        ),
    ):
        layer.load_state_dict(plain.state_dict())
        x = torch.randn(shape, requires_grad=True)
        outs, gradients = [], []
        for each in (plain, layer):
            outs.append(each(x))
            torch.manual_seed(1)
            loss = (outs[-1] * torch.randn(outs[-1].shape)).sum()
            gradients.append(torch.autograd.grad(loss, [x, each.weight, each.bias]))
        assert outs[0].shape == outs[1].shape
        for whole, exact in zip((outs[1], *gradients[1]), (outs[0], *gradients[0]), strict=True):
            assert float(((whole - exact).norm() / exact.norm()).detach()) < 0.03


def test_conversion() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4),
        nn.Conv2d(4, 6, 3, padding=1),
        nn.Flatten(),
        nn.Linear(216, 5),
        nn.Linear(5, 3, bias=False),
    ).eval()
    weights = [p for p in net.parameters()]
    x = torch.randn(2, 1, 8, 8)
    before = net(x)
    assert convert_to_integer_training(net, QConfig(8, 8, 4)) is net
    assert [type(m) for m in net][:3] == [nn.Conv2d, nn.Conv2d, QConv2d]
    assert [m.qconfig.g_bits for m in net if isinstance(m, QConv2d | QLinear)] == [8, 4, 8]
    assert all(a is b for a, b in zip(weights, net.parameters(), strict=True))
    assert not any(m.training for m in net.modules())
    assert float(((net(x) - before).norm() / before.norm()).detach()) < 0.1
    assert "bits=w8 a8 g4, groups=4, backend=int" in repr(net)
    with pytest.raises(ValueError, match="names 'first' and 'last'"):
        convert_to_integer_training(net, eight_bits=("middle",))


def test_layers_compile_without_graph_breaks() -> None:
    layer = QLinear(8, 8)
    x = torch.randn(4, 8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), layer(x))
    compiled(x).sum().backward()
    assert layer.weight.grad is not None


@pytest.mark.parametrize("n", [16, 64, 1024])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_whole_norm_against_floating_point(n: int, bits: int) -> None:
    torch.manual_seed(n)
    x = torch.randint(-127, 128, (n, 5), dtype=torch.int8)
    norm = QuantL1Norm(5, bits)
    out = norm(x)
    assert out.q.dtype == torch.int8
    wide = x.double() - x.double().mean(0)
    exact = wide / wide.abs().mean(0)
    step = 2.0 ** (2 - bits)
    exact = exact.clamp(-2, 2 - step)
    assert float((out.dequantize() - exact).abs().max()) <= 2 * step


def test_whole_norm_of_many_and_in_evaluation() -> None:
    x = torch.full((2**20, 1), 127, dtype=torch.int8)
    x[::2] = -127
    norm = QuantL1Norm(1)
    out = norm(x)
    assert set(out.dequantize().flatten().tolist()) == {-1.0, 1.0}
    for _ in range(60):
        norm(x)
    norm.eval()
    assert float((norm(x[:4]).dequantize().abs() - 1).abs().max()) <= 2.0**-5
    norm.set_affine(torch.tensor([0.5]), torch.tensor([0.25]))
    assert float((norm(x[:2]).dequantize().flatten() - f([-0.25, 0.75])).abs().max()) <= 2.0**-5
    assert not norm(torch.zeros(3, 1, dtype=torch.int8)).dequantize().isnan().any()


def test_split_sums_do_not_wrap() -> None:
    k = MOST_PRODUCTS + 5
    a = ShiftTensor(
        torch.full((1, k), 127, dtype=torch.int8), torch.ones(()).double(),
        torch.zeros(k, dtype=torch.uint8), 8, 1,
    )  # fmt: skip
    b = QTensor(torch.full((k, 1), 127, dtype=torch.int8), torch.ones(()).double())
    assert float(shift_matmul(a, b)) == k * 127.0**2 > 2**31


def test_edges() -> None:
    assert not quantize_shift(torch.zeros(3, 4)).q.any()
    assert float(quantize_shift(torch.zeros(3, 4)).scale) == 1.0
    tiny = quantize_shift(torch.full((2, 2), 1e-42), rounding="nearest")
    assert not tiny.dequantize().any()
    for shape in ((0, 3), (3, 0), (0, 0)):
        empty = quantize_shift(torch.zeros(shape))
        assert empty.q.shape == shape and empty.shift.shape == shape[1:]
        assert shift_matmul(empty, quantize_tensor(torch.zeros(shape[1], 2))).shape == (shape[0], 2)
    layer = QLinear(4, 3)
    x = torch.zeros(0, 4, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None and layer.weight.grad is not None and not layer.weight.grad.any()
    assert QConv2d(2, 3, 3, padding=1)(torch.zeros(0, 2, 4, 5)).shape == (0, 3, 4, 5)
    half = quantize_shift(torch.full((2, 2), 3e-8, dtype=torch.float16), rounding="nearest")
    assert bool(half.q.eq(7).all())
    skipped = quantize_shift(torch.tensor([[1.0, math.inf]]), nonfinite="skip_step")
    assert bool(skipped.dequantize().isnan().all())


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: quantize_shift(X, 1), ValueError, "2 to 8 bits, not 1"),
        (lambda: quantize_shift(X, 9), ValueError, "2 to 8 bits, not 9"),
        (lambda: quantize_shift(X, 4, 0), ValueError, "1 to 16 groups, not 0"),
        (lambda: quantize_shift(X, 4, 17), ValueError, "1 to 16 groups, not 17"),
        (lambda: quantize_shift(X, rounding="up"), ValueError, "'stochastic' or 'nearest'"),  # type: ignore[arg-type]
        (lambda: quantize_shift(X.int()), TypeError, "torch.int32"),
        (lambda: quantize_shift(X[0]), ValueError, "a matrix and one of its axes"),
        (lambda: quantize_shift(X, axis=2), ValueError, "axis 2"),
        (lambda: quantize_shift(X / 0), ValueError, "non-finite gradient"),
        (lambda: quantize_shift(X, backend="cuda"), ValueError, "'auto', 'torch' or 'triton'"),  # type: ignore[arg-type]
        (lambda: quantize_shift(X, 6, 4).shifted_int8(), ValueError, "at most 3 groups do"),
        (lambda: quantize_tensor(X.int()), TypeError, "torch.int32"),
        (lambda: quantize_tensor(X * math.nan), ValueError, "non-finite"),
        (
            lambda: shift_matmul(quantize_shift(X, 8, 4), quantize_tensor(W), path="A"),
            ValueError,
            "at most 1 groups do",
        ),
        (
            lambda: shift_matmul(quantize_shift(X), quantize_tensor(X)),
            ValueError,
            r"\[3, 4\] and \[3, 4\] cannot be multiplied",
        ),
        (lambda: QLinear(4, 3)(torch.zeros(2, 5)), ValueError, "4 features are expected"),
        (lambda: QConv2d(4, 4, 3, groups=2), ValueError, "one group"),
        (lambda: QConv2d(4, 4, 3, padding="same"), ValueError, "padding by a number"),
        (lambda: QConfig(4, None, 4), ValueError, "needs bits"),
        (lambda: QConfig(4, 1, 4), ValueError, "2 to 8 bits, not 1"),
        (lambda: QConfig(backend="gpu"), ValueError, "'int' or 'fake'"),  # type: ignore[arg-type]
        (lambda: QConfig(weight_scale="row"), ValueError, "'tensor' or 'channel'"),  # type: ignore[arg-type]
        (lambda: QuantL1Norm(3, 2), ValueError, "3 to 8 bits"),
        (lambda: QuantL1Norm(3)(torch.zeros(2, 3)), TypeError, "int8"),
        (lambda: QuantL1Norm(3)(torch.zeros(2, 4, dtype=torch.int8)), ValueError, "3 channels"),
        (lambda: QuantL1Norm(3)(torch.zeros(1, 3, dtype=torch.int8)), ValueError, "one value"),
    ],
)  # fmt: skip
def test_bad_input(call: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()


def test_a_gradient_that_is_not_finite() -> None:
    layer = QLinear(4, 3)
    with pytest.raises(ValueError, match="non-finite gradient"):
        (layer(torch.ones(2, 4)) * math.inf).sum().backward()
    skipping = QLinear(4, 3, qconfig=QConfig(nonfinite="skip_step"))
    (skipping(torch.ones(2, 4)) * math.inf).sum().backward()
    assert skipping.weight.grad is not None and bool(skipping.weight.grad.isnan().all())
