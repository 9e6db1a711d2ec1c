"""Functions of single numbers: what each operation of a graph is in C++."""

from __future__ import annotations

import torch

aten = torch.ops.aten

# Templates over real arguments that give reals.
REALS: dict[str, str] = {
    "abs": "absolute({0})",
    "acos": "each(OF(std::acos), {0})",
    "acosh": "each(OF(std::acosh), {0})",
    "add": "{0} + {1}",
    "asin": "each(OF(std::asin), {0})",
    "asinh": "each(OF(std::asinh), {0})",
    "atan": "each(OF(std::atan), {0})",
    "atan2": "each(OF(std::atan2), {0}, {1})",
    "atanh": "each(OF(std::atanh), {0})",
    "ceil": "each(OF(std::ceil), {0})",
    "cos": "each(OF(std::cos), {0})",
    "cosh": "each(OF(std::cosh), {0})",
    "digamma": "each(OF(digamma), {0})",
    "div": "{0} / {1}",
    "erf": "each(OF(std::erf), {0})",
    "erfc": "each(OF(std::erfc), {0})",
    "exp": "exponential({0})",
    "exp2": "each(OF(std::exp2), {0})",
    "expm1": "exponential_less_one({0})",
    "floor": "each(OF(std::floor), {0})",
    "hypot": "each(OF(std::hypot), {0}, {1})",
    "lgamma": "each(OF(log_gamma), {0})",
    "log": "logarithm({0})",
    "log10": "each(OF(std::log10), {0})",
    "log1p": "logarithm_of_more({0})",
    "log2": "each(OF(std::log2), {0})",
    "maximum": "largest({0}, {1})",
    "minimum": "least({0}, {1})",
    "mul": "{0} * {1}",
    "neg": "-{0}",
    "reciprocal": "splat(1) / {0}",
    "relu": "largest({0}, splat(0))",
    "remainder": "remainder_of({0}, {1})",
    "round": "each(OF(std::nearbyint), {0})",
    "rsqrt": "splat(1) / root({0})",
    "sigmoid": "splat(1) / (splat(1) + exponential(-{0}))",
    "sign": "sign_of({0})",
    "sin": "each(OF(std::sin), {0})",
    "sinh": "each(OF(std::sinh), {0})",
    "sqrt": "root({0})",
    "sub": "{0} - {1}",
    "special_erfcx": "each(OF(scaled_erfc), {0})",
    "special_log_ndtr": "each(OF(log_normal_below), {0})",
    "special_ndtri": "quantile({0})",
    "tan": "each(OF(std::tan), {0})",
    "tanh": "hyperbolic_tangent({0})",
    "trunc": "each(OF(std::trunc), {0})",
}

# Templates over real arguments that give truth values.
QUESTIONS: dict[str, str] = {
    "eq": "{0} == {1}",
    "ge": "{0} >= {1}",
    "gt": "{0} > {1}",
    "isinf": "absolute({0}) == splat(INFINITY)",
    "isnan": "{0} != {0}",
    "le": "{0} <= {1}",
    "lt": "{0} < {1}",
    "ne": "{0} != {1}",
}

# Templates over truth values.
TRUTHS: dict[str, str] = {
    "bitwise_and": "{0} & {1}",
    "bitwise_not": "~{0}",
    "bitwise_or": "{0} | {1}",
    "bitwise_xor": "{0} ^ {1}",
    "logical_and": "{0} & {1}",
    "logical_not": "~{0}",
    "logical_or": "{0} | {1}",
    "logical_xor": "{0} ^ {1}",
}

# What powers by these numbers are.
POWERS: dict[float, str] = {
    -2.0: "splat(1) / ({0} * {0})",
    -1.0: "splat(1) / {0}",
    -0.5: "splat(1) / root({0})",
    0.5: "root({0})",
    1.0: "{0}",
    1.5: "{0} * root({0})",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
}
