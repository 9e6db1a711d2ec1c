"""The functions of the header against mpmath, in units of the last place."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import Any

import mpmath
import pytest
import torch
from torch import Tensor

from pushforward.ppl.compile.lanes.build import built

mpmath.mp.dps = 40

# Name, mpmath's, where, and how many units of the last place it may be off.
BOTH_SIDES = [s * 10.0**k for k in range(-300, 3, 7) for s in (-1.7, -1.0, 1.0, 3.1)]
NEAR = [k / 37 for k in range(-1500, 1500)]
POSITIVE = [10.0**k * s for k in range(-320, 308, 3) for s in (1.0, 1.9, 7.3)] + [
    1 + s * 2.0**-k for k in range(1, 53) for s in (-0.5, 1)
]
MORE = [x for x in (*NEAR, *BOTH_SIDES) if x > -1] + [-1 + 2.0**-k for k in range(1, 53)]
FUNCTIONS: dict[str, tuple[Callable[..., Any], list[float], float]] = {
    "exponential": (mpmath.exp, [*NEAR, *BOTH_SIDES, 709.7, -744.0, -708.5, -730.1], 1.0),
    "exponential_less_one": (mpmath.expm1, [*NEAR, *BOTH_SIDES, 709.7, -30.0, 1e-320], 2.0),
    "logarithm": (mpmath.log, POSITIVE, 1.0),
    "logarithm_of_more": (mpmath.log1p, MORE, 1.5),
    "hyperbolic_tangent": (mpmath.tanh, [*NEAR, *BOTH_SIDES], 3.0),
    "root": (mpmath.sqrt, POSITIVE, 0.5),
}
# Functions that have zeros are off by units of the largest of their value, 1 and their argument.
AT_ZEROS: dict[str, tuple[Callable[..., Any], list[float], float]] = {
    "each(OF(digamma), x)": (mpmath.digamma, [x for x in NEAR if x % 1] + POSITIVE[300:700], 8.0),
    "each(OF(log_gamma), x)": (
        lambda x: mpmath.log(abs(mpmath.gamma(x))),
        [x for x in NEAR if x % 1] + [10.0**k for k in range(1, 5)],
        8.0,
    ),
    "each(OF(normal_quantile), x)": (
        lambda p: mpmath.sqrt(2) * mpmath.erfinv(2 * mpmath.mpf(p) - 1),
        [k / 997 for k in range(1, 997)]
        + [0.5 + s * 2.0**-k for k in range(2, 50) for s in (-1, 1)],
        4.0,
    ),
}
# The tail of the quantile, where 2 p - 1 has no digits left: p is the distribution function there.
TAILS = [-x for x in (3.0, 7.5, 12.0, 20.0, 30.0, 37.0)]


def computed(function: str, xs: list[float], dtype: torch.dtype = torch.float64) -> Tensor:
    """A function of the header at these numbers."""
    text = (
        'extern "C" void lanes(long count, const REAL *from, const void *const *,'
        " REAL *const *to, V *) { for (long i = 0; i < count; i += LANES) { V x, y;"
        f" std::memcpy(&x, from + i, sizeof x); y = {function};"
        " std::memcpy(to[0] + i, &y, sizeof y); } }"
    )
    call = built(text, "double" if dtype == torch.float64 else "float", 4)
    x = torch.tensor(xs + [0.5] * (-len(xs) % 4), dtype=dtype)
    y = torch.empty_like(x)
    call(len(x), x.data_ptr(), None, (ctypes.c_void_p * 1)(y.data_ptr()), None)
    return y[: len(xs)]


def ulps(found: float, exact: Any, least: float = 0.0) -> float:
    """How far off, in units of the last place of the exact value, or of ``least`` if larger."""
    unit = math.ulp(max(abs(float(exact)), least))
    return float(abs(mpmath.mpf(found) - exact) / unit)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_it_is_exact_to_its_last_places(name: str) -> None:
    function, xs, bound = FUNCTIONS[name]
    found = computed(f"{name}(x)", xs).tolist()
    worst = max((ulps(y, function(mpmath.mpf(x))), x) for x, y in zip(xs, found, strict=True))
    assert worst[0] <= bound, worst


@pytest.mark.parametrize("name", AT_ZEROS)
def test_a_function_with_zeros_is_exact_to_places_of_one(name: str) -> None:
    function, xs, bound = AT_ZEROS[name]
    found = computed(name, xs).tolist()
    offs = [(ulps(y, function(mpmath.mpf(x)), 1.0), x) for x, y in zip(xs, found, strict=True)]
    assert max(offs)[0] <= bound, max(offs)


def test_the_quantile_holds_far_into_its_tail() -> None:
    ps = [float(mpmath.ncdf(x)) for x in TAILS]
    found = computed("each(OF(normal_quantile), x)", ps).tolist()
    assert found == pytest.approx(TAILS, rel=1e-15)


def test_a_worse_series_is_seen() -> None:
    """Negative control: the exponential by a float's series is off by more than its bound."""
    bound = FUNCTIONS["exponential"][2]
    found = computed("each([](REAL a) { return (REAL) std::exp((float) a); }, x)", NEAR).tolist()
    assert max(ulps(y, mpmath.exp(x)) for x, y in zip(NEAR, found, strict=True)) > bound


SPECIAL = [math.inf, -math.inf, math.nan, 0.0, -0.0, -1.0, 5e-324, -5e-324, 1e308, -1e308]
BY_TORCH: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential(x)": torch.exp,
    "exponential_less_one(x)": torch.expm1,
    "logarithm(x)": torch.log,
    "logarithm_of_more(x)": torch.log1p,
    "hyperbolic_tangent(x)": torch.tanh,
    "root(x)": torch.sqrt,
    "absolute(x)": torch.abs,
    "sign_of(x)": torch.sign,
    "largest(x, splat(0))": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "least(splat(0), x)": lambda x: torch.minimum(torch.zeros_like(x), x),
    "each(OF(digamma), x)": torch.digamma,
    "each(OF(log_gamma), x)": torch.lgamma,
    "each(OF(normal_quantile), x)": torch.special.ndtri,
    "quantile(x)": torch.special.ndtri,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("function", BY_TORCH)
def test_infinities_and_nan_are_those_of_torch(function: str, dtype: torch.dtype) -> None:
    x = torch.tensor(SPECIAL, dtype=dtype)
    found, expected = computed(function, SPECIAL, dtype), BY_TORCH[function](x)
    torch.testing.assert_close(found, expected, rtol=1e-15, atol=1e-44, equal_nan=True)


# In single precision; where a power of two is subnormal, its last place is that of all subnormals.
IN_FLOAT = {
    "exponential": 1.0,
    "exponential_less_one": 0.6,
    "logarithm": 1.0,
    "logarithm_of_more": 1.5,
    "hyperbolic_tangent": 0.6,
    "root": 0.6,
}


def float_ulps(found: float, exact: Any) -> float:
    unit = 2.0 ** max(math.frexp(float(exact))[1] - 24, -149) if exact else 2.0**-149
    return float(abs(mpmath.mpf(found) - exact) / unit)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_in_float_it_is_exact_to_its_last_places(name: str) -> None:
    function, xs, _ = FUNCTIONS[name]
    more = [-87.5, -95.0, -103.0, 88.5, 3e-45, 1.1e-38, 3e38] + [
        1 + k / 3e3 for k in range(-999, 999)
    ]
    rows = torch.tensor([x for x in (*xs, *more) if 1e-37 < abs(x) < 1e37 or x in more]).float()
    inside = {"exponential": 88.6, "exponential_less_one": 88.6}.get(name, math.inf)
    least = {"logarithm": 0.0, "root": 0.0, "logarithm_of_more": -1.0}.get(name, -math.inf)
    rows = rows[(rows < inside) & (rows > least)]
    found = computed(f"{name}(x)", rows.tolist(), torch.float32).tolist()
    pairs = zip(rows.tolist(), found, strict=True)
    worst = max((float_ulps(y, function(mpmath.mpf(x))), x) for x, y in pairs)
    assert worst[0] <= IN_FLOAT[name], worst


def _log_below(x: Any) -> Any:
    tail = mpmath.erfc(abs(x) / mpmath.sqrt(2)) / 2
    return mpmath.log(tail) if x < 0 else mpmath.log1p(-tail)


NORMAL_TAILS: dict[str, tuple[Callable[..., Any], list[float]]] = {
    "log_normal_below": (_log_below, [-1e5, -300.0, -25.0, *(k / 7 for k in range(-260, 261))]),
    "scaled_erfc": (
        lambda x: mpmath.exp(x * x) * mpmath.erfc(x),
        [1e4, 300.0, *(k / 7 for k in range(-70, 200))],
    ),
}


@pytest.mark.parametrize("name", NORMAL_TAILS)
def test_tails_of_the_normal_law_have_their_digits(name: str) -> None:
    function, xs = NORMAL_TAILS[name]
    mpmath.mp.dps = 60
    found = computed(f"each(OF({name}), x)", xs).tolist()
    exact = [float(function(mpmath.mpf(x))) for x in xs]
    assert found == pytest.approx(exact, rel=3e-13, abs=1e-300)
    other = computed("each(OF(std::erfc), x)", xs).tolist()
    assert other != pytest.approx(exact, rel=1e-3)
