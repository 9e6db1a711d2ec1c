"""Dense matrices by tiles: every remainder of rows and columns, against torch; a tile too few."""

from __future__ import annotations

import pytest
import torch
from support.sizes import quick
from torch import Tensor

from pushforward.ppl.compile.lanes import header
from pushforward.ppl.compile.potential import Potential

SIZES = ["1 8 5 12", "2 9 13 4", "3 10 7 8", "6 11 15 14", "16 17 20 24"]
CHAINS = 3


def of_one(u: Tensor, n: int, m: int = 17) -> Tensor:
    """Of a factor, of both solutions, and of products with them, for a matrix of n rows."""
    rows = torch.arange(n, dtype=u.dtype)
    a = (-((rows[:, None] - rows) ** 2) / u[0].exp()).exp() + u[1].exp() * torch.eye(n)
    factor = torch.linalg.cholesky(a)
    right = (rows[:, None] + 1) * (u[2] + torch.arange(m, dtype=u.dtype)).sin()
    below = torch.linalg.solve_triangular(factor, right, upper=False)
    above = torch.linalg.solve_triangular(factor.mT, right, upper=True)
    wide = (below.mT @ above) @ (right.mT @ (factor @ right)) / n**3
    return factor.diagonal().log().sum() + (below * above).sum() + wide.cos().sum()


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("sizes", quick(1, SIZES))
def test_every_remainder_is_what_torch_has(sizes: str) -> None:
    def built_from(u: Tensor) -> Tensor:
        return torch.stack([of_one(u, n) for n in map(int, sizes.split())]).sum()

    u = torch.tensor([[0.3, -0.5, 0.1], [1.2, 0.2, -0.7], [-0.4, -1.0, 2.0]])
    potential = Potential(built_from, u)
    assert potential.lanes is not None and "cholesky<" in potential.lanes.text
    assert "product<" in potential.lanes.text
    value, gradient = potential(u)
    for k in range(CHAINS):
        at = u[k].clone().requires_grad_()
        expected = built_from(at)
        torch.testing.assert_close(value[k], expected.detach(), rtol=1e-11, atol=1e-11)
        (slope,) = torch.autograd.grad(expected, at)
        torch.testing.assert_close(gradient[k], slope, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("double")
def test_a_product_of_zeros_has_the_sign_that_torch_gives_it() -> None:
    def angle(u: Tensor) -> Tensor:
        zeros = (u[0] * torch.zeros(16, 16)) @ torch.ones(16, 16)
        return torch.atan2(zeros, -u[0].exp()).sum()  # pi for +0, -pi for -0

    potential = Potential(angle, torch.full((CHAINS, 1), 0.5))
    assert potential.lanes is not None and "product<" in potential.lanes.text
    value, _ = potential(torch.full((CHAINS, 1), 0.5))
    torch.testing.assert_close(value, torch.full((CHAINS,), 256 * torch.pi))


@pytest.mark.slow
@pytest.mark.usefixtures("double")
def test_a_tile_that_is_left_out_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """With sums that leave out the last term the lane code is refused, and said to disagree."""
    whole = header.header()
    planted = whole.replace(
        "for (long p = 0; p < count; p++)", "for (long p = 0; p < count - 1; p++)"
    )
    assert planted != whole
    monkeypatch.setattr("pushforward.ppl.compile.lanes.build.header", lambda: planted)
    u = torch.tensor([[0.3, -0.5, 0.1]] * CHAINS)
    with pytest.warns(RuntimeWarning, match="disagrees with the traced graph"):
        potential = Potential(lambda at: of_one(at, 9), u, notify=lambda said: None)
    assert potential.lanes is None
