"""The noise of filters in lane code: Threefry's bits, and the numbers that are made of them."""

from __future__ import annotations

import itertools

import mpmath
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pushforward.inference.smc.filtering import Filtering
from pushforward.inference.smc.lanes.engine import Engine
from pushforward.inference.smc.lanes.particle import Particle
from pushforward.ppl import draw, program, scan

WORD = 2**64
TURNS = (16, 42, 12, 31, 16, 32, 24, 21)
KEY = (0x243F6A8885A308D3, 0x13198A2E03707344)


def threefry(key: tuple[int, int], counter: tuple[int, int]) -> tuple[int, int]:
    """Threefry-2x64 with 20 rounds, as Salmon et al. (2011) define it."""
    keys = (*key, key[0] ^ key[1] ^ 0x1BD11BDAA9FC1A22)
    x, y = (counter[0] + keys[0]) % WORD, (counter[1] + keys[1]) % WORD
    for i in range(20):
        x = (x + y) % WORD
        turn = TURNS[i % 8]
        y = (y << turn | y >> (64 - turn)) % WORD ^ x
        if i % 4 == 3:
            k = i // 4 + 1
            x, y = (x + keys[k % 3]) % WORD, (y + keys[(k + 1) % 3] + k) % WORD
    return x, y


def test_threefry_has_its_published_answers() -> None:
    """Those of the library Random123, for counters and keys of zeros, ones and digits of pi."""
    assert threefry((0, 0), (0, 0)) == (0xC2B6E3A8C2C69865, 0x6F81ED42F350084D)
    ones = WORD - 1, WORD - 1
    assert threefry(ones, ones) == (0xE02CB7C4D95D277A, 0xD06633D0893B8B68)
    key = 0xA4093822299F31D0, 0x082EFA98EC4E6C89
    assert threefry(key, KEY) == (0x263C7D30BB0F0AF1, 0x56BE8361D3311526)


def noise(dtype: torch.dtype, n: int) -> Tensor:
    """Uniform and normal numbers [steps, 2, n] of a filter whose outputs they are."""

    @program
    def model() -> Tensor:
        def step(x: Tensor, _: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
            u = draw(dist.Uniform(torch.zeros((), dtype=dtype), 1.0))
            z = draw(dist.Normal(torch.zeros((), dtype=dtype), 1.0))
            return x + u, (u, z)

        return scan(step)(torch.zeros((), dtype=dtype), torch.arange(2))[0]

    with torch.no_grad():
        engine = Engine(Particle(Filtering(model, n), ()))
        found = engine([], torch.tensor([x - WORD if x >= 2**63 else x for x in KEY])).history
    assert found is not None
    return found


def bits(i: int, place: int) -> int:
    """Of number i of the stream at a place."""
    block, rest = divmod(i, 16)
    return threefry(KEY, (8 * block + rest % 8, place))[rest // 8]


def half_bits(i: int, place: int) -> int:
    """The 32 bits of number i in single precision."""
    block, rest = divmod(i, 32)
    words = threefry(KEY, (8 * block + rest % 8, place))
    return words[rest // 8 % 2] >> (32 if rest < 16 else 0) & (2**32 - 1)


@pytest.mark.parametrize("n", [1, 7, 8, 17, 600])
def test_numbers_are_those_of_their_place_in_double_precision(n: int) -> None:
    """Normals to 1e-15: each is the quantile of its own uniform number."""
    found = noise(torch.float64, n)
    for step, first in ((0, 0), (1, 3)):  # place 2 is that of resampling
        for i in range(0, n, max(1, n // 40)):
            u = mpmath.mpf((bits(i, first) >> 12) + 0.5) / 2**52
            assert float(found[step, 0, i]) == float(u)
            v = mpmath.mpf((bits(i, first + 1) >> 12) + 0.5) / 2**52
            exact = mpmath.sqrt(2) * mpmath.erfinv(2 * v - 1)
            assert abs(float(found[step, 1, i]) / float(exact) - 1) < 1e-15


def test_numbers_of_single_precision_are_exact_and_within_their_bounds() -> None:
    found = noise(torch.float32, 200)
    for i in range(200):
        u = ((half_bits(i, 0) >> 9) + 0.5) / 2**23
        assert float(found[0, 0, i]) == u
        assert 0 < u < 1
    assert float(torch.tensor((2**23 - 0.5) / 2**23, dtype=torch.float32)) < 1
    assert (2**52 - 0.5) / 2**52 < 1


def test_normals_of_single_precision_are_exact_to_their_last_places() -> None:
    """Three of them; one in 800 numbers is beyond the fit."""
    z = noise(torch.float32, 50_000)[0, 1].double()
    u = [((half_bits(i, 1) >> 9) + 0.5) / 2**23 for i in range(50_000)]
    expected = torch.special.ndtri(torch.tensor(u, dtype=torch.float64))
    assert int((z.abs() > 3.24).sum()) > 30
    torch.testing.assert_close(z, expected, rtol=3 * 2.0**-23, atol=0.0)


def test_normals_far_out() -> None:
    """One in 800 numbers is beyond the fit; all are torch's quantiles, which are good to 5e-14."""
    found = noise(torch.float64, 100_000)[0, 1]
    u = [((bits(i, 1) >> 12) + 0.5) / 2**52 for i in range(0, 100_000, 7)]
    expected, z = torch.special.ndtri(torch.tensor(u, dtype=torch.float64)), found[::7]
    assert int((z.abs() > 3.24).sum()) > 5
    torch.testing.assert_close(z, expected, rtol=5e-14, atol=1e-15)


def test_streams_do_not_meet() -> None:
    found = noise(torch.float64, 5_000)
    parts = [found[t, 0] for t in range(2)]
    for one, other in itertools.combinations(parts, 2):
        assert not set(one.tolist()) & set(other.tolist())
