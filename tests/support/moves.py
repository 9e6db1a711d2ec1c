"""Functions of a tensor whose last dimension has N entries, which move, mix and pick them.

Tables have as many rows as columns, so that no shape tells one dimension from another.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

N = 4  # entries of the input
TABLE = torch.linspace(-1.0, 2.0, 12).double().reshape(4, 3)
PLACES = torch.tensor([3, 0, 0, 2])
# As many rows, columns and layers as entries: no shape tells a dimension from another.
SQUARE = torch.linspace(-1.0, 2.0, 16).double().roll(5).reshape(4, 4)
CUBE = torch.linspace(-1.0, 2.0, 64).double().roll(11).reshape(4, 4, 4)

Step = Callable[[Tensor], Tensor]


def whole(x: Tensor) -> Tensor:
    return x.detach().abs().long() % N


def viewed(x: Tensor) -> Tensor:
    """Written by a view of a part, read as a whole."""
    y = torch.zeros_like(x)
    y[..., :2].copy_(x[..., 2:])
    return y


# Steps from a tensor whose last dimension has N entries to another such one.
STEPS: dict[str, Step] = {
    "scale": lambda x: 2 * x + 1,
    "permute": lambda x: x[..., PLACES],
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(1, -1),
    "shift": lambda x: torch.cat([torch.zeros_like(x[..., :1]), x[..., :-1]], -1),
    "gather": lambda x: x.gather(-1, PLACES.expand(x.shape)),
    "select and spread": lambda x: x[..., 1:2].expand(x.shape),
    "outer": lambda x: (x[..., :, None] * torch.ones(3)).sum(-1),
    "transpose": lambda x: torch.stack([x, x.flip(-1)], -1).transpose(-1, -2)[..., 0, :],
    "where": lambda x: torch.where(torch.tensor([True, False, True, False]), x, x[..., :1]),
    "matrix": lambda x: x @ torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0])),
    "cumulate": lambda x: x.cumsum(-1),
    "normalise": lambda x: x.softmax(-1),
    "table": lambda x: TABLE[x.detach().abs().long() % 4][..., 1] + 0 * x,
    "lanes": lambda x: torch.func.vmap(lambda e: e.sin())(x),
    "write": lambda x: torch.zeros_like(x).index_copy(-1, PLACES[:2], x[..., :2]),
    "in place": lambda x: torch.zeros_like(x).add_(x),
    "select": lambda x: x.index_select(-1, PLACES),
    "unfold": lambda x: torch.nn.functional.pad(x, (1, 0)).unfold(-1, 2, 1)[..., 0],
    "rows of a table": lambda x: SQUARE[whole(x)].sum(-2),
    "columns of a table": lambda x: SQUARE[:, whole(x)].movedim(0, -1).sum(-2),
    "columns, summed": lambda x: SQUARE[:, whole(x)].sum(0),
    "entries of a table": lambda x: SQUARE[whole(x), PLACES],
    "layers of a table": lambda x: CUBE[PLACES[:, None], whole(x)[..., None, :]].sum(-1).sum(-1),
    "places apart": lambda x: CUBE[whole(x), :, PLACES].sum(-2),
    "places apart, kept": lambda x: CUBE[whole(x), :, PLACES].sum(-1),
    "selected rows": lambda x: SQUARE.index_select(0, whole(x).flatten()[:N]).sum(0) + 0 * x,
    "selected columns": lambda x: SQUARE.index_select(1, whole(x).flatten()[:N]).sum(0) + 0 * x,
    "gathered": lambda x: SQUARE.sum(0).expand(x.shape).gather(-1, whole(x)),
    "norm of rows": lambda x: torch.linalg.vector_norm(x[..., :, None] * SQUARE, dim=-2),
    "norm of columns": lambda x: (x[..., :, None] * SQUARE).norm(dim=-1),
    "high norm": lambda x: torch.linalg.vector_norm(x[..., :, None] * SQUARE, 3, dim=-2),
    "spread of rows": lambda x: (x[..., :, None] * SQUARE).std(-2),
    "spread of columns": lambda x: (x[..., :, None] * SQUARE).var(-1, correction=0),
    "product of rows": lambda x: (x[..., :, None] * SQUARE).prod(-2),
    "largest of rows": lambda x: (x[..., :, None] * SQUARE).max(-2).values,
    "sorted rows": lambda x: (x[..., :, None] * SQUARE).sort(-2).values[..., 1, :],
    "running rows": lambda x: (x[..., :, None] * SQUARE).cumsum(-2)[..., 2, :],
    "spread in front": lambda x: x.expand(4, *x.shape).movedim(0, -1).sum(-2),
    "filled": lambda x: torch.zeros_like(x).copy_(x.flip(-1)).mul_(2.0),
    "filled by a view": lambda x: viewed(x),
    "filled where": lambda x: (x + 1).masked_fill_(torch.tensor([False, True, False, False]), 0.5),
    "log sigmoid": torch.nn.functional.logsigmoid,
    "solved": lambda x: torch.linalg.solve_triangular(
        SQUARE.tril() + 3 * torch.eye(4).double(), x[..., None], upper=False
    )[..., 0],
    "solved apart": lambda x: torch.linalg.solve_triangular(
        torch.ones(1, 1).double(), x[..., None, None], upper=False
    )[..., 0, 0],
    "columns solved": lambda x: torch.linalg.solve_triangular(
        SQUARE[:2, :2].tril() + 3 * torch.eye(2).double(), torch.stack([x, x], -2), upper=False
    )[..., 1, :],
    "rows solved": lambda x: torch.linalg.solve_triangular(
        SQUARE[:2, :2].tril() + 3 * torch.eye(2).double(),
        torch.stack([x, x], -1),
        upper=False,
        left=False,
    )[..., 1],
    "by factors": lambda x: torch.cholesky_solve(
        torch.stack([x, x], -2), SQUARE[:2, :2].tril() + 3 * torch.eye(2).double()
    )[..., 1, :],
    "inverted apart": lambda x: torch.linalg.inv(
        (x.abs() + 1)[..., None, None] * torch.eye(2).double()
    )[..., 1, 1],
    "determinants": lambda x: torch.logdet((x.abs() + 1)[..., None, None] * torch.eye(2).double()),
    "factors apart": lambda x: torch.linalg.cholesky((x**2 + 1)[..., None, None])[..., 0, 0],
    "masked": lambda x: x.masked_fill(torch.tensor([False, True, False, False]), 0.5),
}
