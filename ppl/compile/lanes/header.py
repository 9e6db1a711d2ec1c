"""The header of lane code: vectors of all lanes, and wide ones of all lanes at two data."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent

# The names of the types and functions of wide vectors, in place of those of vectors.
WIDE = {"V": "W", "M": "MW", "D": "DW", "I": "IW", "F": "FW", "J": "JW", "LANES": "WIDE",
        "splat": "wide_splat", "truth": "wide_truth"}  # fmt: skip

PAIRS = """
#define WIDE (2 * LANES)
"""

BETWEEN = """
template <class S, int... i> INLINE auto shuffled(S a, S b, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, b, i...);
}
template <class T, int first, int... i> INLINE auto taken(T a, std::integer_sequence<int, i...>) {
    return __builtin_shufflevector(a, a, (first + i)...);
}
template <class T, class S> INLINE T joined(S a, S b) {
    return (T) shuffled(a, b, std::make_integer_sequence<int, WIDE>());
}
template <int half, class S, class T> INLINE S part(T both) {
    return (S) taken<T, half * LANES>(both, std::make_integer_sequence<int, LANES>());
}
"""


def widened(text: str) -> str:
    """Code for vectors as code for wide ones."""
    return re.sub(r"\b(" + "|".join(WIDE) + r")\b", lambda name: WIDE[name[1]], text)


@cache
def header() -> str:
    """All of it."""
    scalars, vectors, matrices = (
        (FOLDER / name).read_text() for name in ("lanes.h", "vectors.h", "matrices.h")
    )
    return "\n".join((scalars, vectors, PAIRS, widened(vectors), BETWEEN, matrices))
