"""Thinning: one transition of several stands for all, and what was told of them stays."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from ...ppl.tensors.decompositions import NO_DECOMPOSITION

# What is told of several transitions [..., n, several] by its name; of others the last counts.
_OF_SEVERAL: dict[str, Callable[[Tensor], Tensor]] = {
    "acceptance_rate": lambda x: x.mean(-1),
    "diverging": lambda x: x.any(-1),
    "tree_depth": lambda x: x.amax(-1),
    "n_steps": lambda x: x.sum(-1),
    NO_DECOMPOSITION: lambda x: x.sum(-1),
}


def thinned(stats: dict[str, Tensor], by: int) -> dict[str, Tensor]:
    """Of each so many columns of what is [chains, n, ...] one, without a rest that is shorter."""
    if by == 1:
        return stats
    found = {}
    for name, x in stats.items():
        several = x[:, : x.shape[1] - x.shape[1] % by].unflatten(1, (-1, by))
        joint = _OF_SEVERAL.get(name)
        found[name] = several[:, :, -1] if joint is None else joint(several)
    return found
