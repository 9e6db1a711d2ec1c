"""Draws in the files of CmdStan: a CSV for each chain, with comments about the run.

A column is a number: ``theta.1.2`` is the entry of row 1 and column 2, the first index runs
fastest.  Numbers have as many digits as tell them from all others of their precision.

Source: CmdStan User's Guide, "Stan CSV file format".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..inference.results.groups import as_arrays
from ..ppl.language.handlers import split_name
from .saying import UsageError

# our statistics of draws, and CmdStan's names for them, in its order
STATISTICS = {
    "lp": "lp__",
    "acceptance_rate": "accept_stat__",
    "step_size": "stepsize__",
    "tree_depth": "treedepth__",
    "n_steps": "n_leapfrog__",
    "diverging": "divergent__",
    "energy": "energy__",
}


def write(
    path: Path,
    draws: Mapping[str, Tensor],
    stats: Mapping[str, Tensor],
    about: Mapping[str, Any],
    state: Mapping[str, Tensor] | None = None,
) -> list[Path]:
    """Write draws [chains, draws, *shape] and statistics [chains, draws]; the paths of the files.

    ``state``: step sizes and metric, as a fit by NUTS has them.  One chain goes to ``path``; of
    several, chain i to ``path`` with ``_i`` before its extension.

    Errors:
        UsageError: two sites have one name for Stan, which allows letters, digits and underscores.
    """
    columns = dict(_statistics(stats)) | dict(numbered(draws))
    if not columns:
        raise UsageError("there is nothing to write: all sites are empty")
    chains, size = next(iter(columns.values())).shape
    paths = [path]
    if chains > 1:
        paths = [path.with_name(f"{path.stem}_{i + 1}{path.suffix}") for i in range(chains)]
    adapted = state if state and set(STATISTICS) <= stats.keys() else {}
    for i, each in enumerate(paths):
        rows = np.stack([texts(x[i]) for x in columns.values()], 1)
        lines = [*_comments(about, size, i + 1, bool(adapted)), ",".join(columns)]
        lines += [*_adaptation(adapted, i), *map(",".join, rows.tolist()), *_times(about)]
        each.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return paths


def numbered(draws: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    """The numbers [chains, draws] of sites under Stan's names, the first index fastest."""
    seen: dict[str, str] = {}
    for site, x in as_arrays(stacked(draws)).items():
        name = re.sub(r"\W", "_", site, flags=re.ASCII)
        if name.endswith("__"):  # which marks what the sampler says
            name = name.rstrip("_") + "_"
        if name in seen:
            raise UsageError(f"the sites '{seen[name]}' and '{site}' are both {name!r} for Stan")
        seen[name] = site
        for index in np.ndindex(*reversed(x.shape[2:])):
            at = index[::-1]
            yield ".".join([name, *(str(i + 1) for i in at)]), x[:, :, *at]


def stacked(draws: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Draws with the steps ``z[0]``, ``z[1]``, ... of a loop as one site, its first dimension."""
    import torch

    groups: dict[tuple[str, int], dict[tuple[int, ...], Tensor]] = {}
    for site, x in draws.items():
        name, index = split_name(site)
        groups.setdefault((name, len(index)), {})[index] = x
    found: dict[str, Tensor] = {}
    for (name, depth), steps in groups.items():
        shape = tuple(1 + max(index[k] for index in steps) for k in range(depth))
        whole = len(steps) == int(np.prod(shape)) and len({x.shape for x in steps.values()}) == 1
        if not whole or (depth and name in draws):
            found |= {f"{name}{''.join(f'[{i}]' for i in at)}": x for at, x in steps.items()}
        else:
            each = [steps[index] for index in np.ndindex(*shape)]
            found[name] = torch.stack(each, 2).unflatten(2, shape) if depth else each[0]
    return found


def _statistics(stats: Mapping[str, Tensor]) -> Iterator[tuple[str, Any]]:
    arrays = as_arrays(stats)
    for name, column in STATISTICS.items():
        if name in arrays:
            yield column, arrays[name]


def texts(x: Any) -> Any:
    """Numbers as texts, from which they are read again exactly."""
    return (x.astype(np.int64) if x.dtype == bool else x).astype(str)


def _comments(about: Mapping[str, Any], size: int, chain: int, adapted: bool) -> Iterator[str]:
    yield from ("# stan_version_major = 2", "# stan_version_minor = 36", "# stan_version_patch = 0")
    yield f"# model = {about['model']}"
    yield from ("# method = sample (Default)", "#   sample", f"#     num_samples = {size}")
    yield f"#     num_warmup = {about.get('warmup', 0)}"
    yield from ("#     save_warmup = 0", "#     thin = 1 (Default)")
    if adapted:
        yield from ("#     algorithm = hmc (Default)", "#       hmc", "#         engine = nuts")
        yield from ("#           nuts", f"#             max_depth = {about['max_depth']}")
        yield "#         metric = diag_e (Default)"
    else:
        yield "#     algorithm = fixed_param"
    yield from (f"# id = {chain}", "# random", f"#   seed = {about['seed']}")
    yield f"# written by pushforward; method: {about['method']}"


def _adaptation(state: Mapping[str, Tensor], chain: int) -> Iterator[str]:
    """Step size and metric as CmdStan tells them, in the coordinates of the run."""
    if not state:
        return
    step = state["step_size"].flatten()
    yield "# Adaptation terminated"
    yield f"# Step size = {float(step[chain if len(step) > 1 else 0])!r}"
    yield "# Diagonal elements of inverse mass matrix:"
    yield f"# {', '.join(map(repr, variances(state).tolist()))}"


def _times(about: Mapping[str, Any]) -> Iterator[str]:
    """The seconds that the run took, warm-up and all."""
    seconds = f"{about.get('seconds', 0.0):.3f}"
    yield from ("# ", "#  Elapsed Time: 0 seconds (Warm-up)")
    yield f"#                {seconds} seconds (Sampling)"
    yield from (f"#                {seconds} seconds (Total)", "# ")


def variances(state: Mapping[str, Tensor]) -> Tensor:
    """The diagonal [d] of the inverse mass matrix, which may be stretched along some directions.

    Stretches s [k] along orthonormal v [k, d] in the coordinates of the diagonal multiply the
    entry i by 1 + sum_k ((1 + s_k)^2 - 1) v_ki^2.
    """
    found = state["inverse_mass"]
    if "directions" in state:
        more = (1.0 + state["stretch"]).square() - 1.0
        found = found * (1.0 + (more[:, None] * state["directions"].square()).sum(0))
    return found
