"""The result of inference: draws with their statistics, as tensors and as ArviZ objects."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from ...ppl.errors import DataError, located
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.handlers import split_name
from ...ppl.pages import listed, paragraph, table, text
from ...ppl.tensors.decompositions import NO_DECOMPOSITION
from .arviz import dataset, joined
from .figures import COLUMNS, figures, numbers
from .groups import Coords, Dims, as_arrays, datasets
from .loo import Loo, leave_one_out
from .prediction import ATTRS, Prediction

if TYPE_CHECKING:
    import pandas

ENTRIES = 262_144  # of the log likelihood that are computed at once, and no more than so many draws
CHUNK = 1000
POINTWISE_LIMIT = 50_000_000
TOO_LARGE = "the pointwise log likelihood is too large to keep; log_likelihood(...) computes it"
ROWS = 20  # that a notebook shows


@dataclass
class Fit:
    """Draws from a posterior.

    draws: latents and deterministic sites by name, [chains, draws, *shape].
    stats: of each draw, [chains, draws], under ArviZ's names.
    log_likelihood: of each observed entry, and of each entry of a factor, [chains, draws, *shape].
    factors: those without entries, which are in no log likelihood: priors, or data as a whole.
    observed: the data by site.
    dims: the plate of each dimension of a site.
    latents: which of the draws are latents; the others are deterministic sites.
    history: of each step of an optimisation, or each island of an SMC run.
    log_evidence: with its standard error, where the method estimates it.
    marginals: of finite latents, where they are known: the posterior probability of each value,
        [*shape, values].
    moments: of real latents, where they are known: posterior mean and sd, [2, *shape].
    state: what a run needs to go on.
    origin: fingerprints of the program, data and arguments that it must go on with.
    report: what was adapted: the windows of warm-up, the paths of Pathfinder, the powers of SMC.
    """

    method: str
    draws: dict[str, Tensor]
    stats: dict[str, Tensor] = field(default_factory=dict)
    log_likelihood: dict[str, Tensor] = field(default_factory=dict)
    observed: dict[str, Tensor] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    latents: tuple[str, ...] = ()
    factors: tuple[str, ...] = ()
    history: dict[str, Tensor] = field(default_factory=dict)
    log_evidence: float | None = None
    log_evidence_error: float | None = None
    marginals: dict[str, Tensor] = field(default_factory=dict)
    moments: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    seconds: float = 0.0
    interrupted: bool = False
    notes: tuple[str, ...] = ()
    report: tuple[str, ...] = ()

    @property
    def chains(self) -> int:
        return int(next(iter(self.draws.values())).shape[0]) if self.draws else 0

    @property
    def size(self) -> int:
        """How many draws each chain holds."""
        return int(next(iter(self.draws.values())).shape[1]) if self.draws else 0

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the real draws; torch's default where there are none."""
        real = (x.dtype for x in self.draws.values() if x.is_floating_point())
        return next(real, torch.get_default_dtype())

    @property
    def divergences(self) -> int | None:
        """How many draws ended in a divergent trajectory; None for methods without trajectories."""
        return int(self.stats["diverging"].sum()) if "diverging" in self.stats else None

    @property
    def _without_decomposition(self) -> int:
        """At how many points that were tried a matrix had no decomposition."""
        of_chains, of_islands = (x.get(NO_DECOMPOSITION) for x in (self.stats, self.history))
        return sum(int(x.sum()) for x in (of_chains, of_islands) if x is not None)

    def __getitem__(self, name: str) -> Tensor:
        """The draws of one site, [chains, draws, *shape]; of all steps of a loop, stacked."""
        if name in self.draws:
            return self.draws[name]
        steps = [at for at in self.draws if re.fullmatch(re.escape(name) + r"\[\d+\].*", at)]
        numbers = {int(at[len(name) + 1 : at.index("]", len(name))]) for at in steps}
        if not steps or numbers != set(range(len(numbers))):
            hint = f"it has {', '.join(self.draws)}"
            raise DataError(located(f"the fit has no site '{name}'", hint=hint))
        return torch.stack([self[f"{name}[{t}]"] for t in range(len(numbers))], 2)

    def to_arviz(
        self,
        coords: Coords | None = None,
        dims: Dims | None = None,
        predictions: Sequence[Prediction] = (),
    ) -> Any:
        """ArviZ's object of posterior, sample statistics, log likelihood, data and predictions.

        An ``InferenceData`` for ArviZ 0.x, a ``DataTree`` for ArviZ 1.  A ``/`` in a name, as
        ``scope`` makes, stands there as ``.``: files could not hold it.

        Args:
            coords: labels of dimensions, such as ``{"school": names}``; plates name dimensions.
            dims: names for the dimensions of sites, in place of those of their plates.
            predictions: of the posterior and of the prior; labels are theirs where they fit.

        Errors:
            DataError: coords or dims are of no dimension or site, or do not fit it.
        """
        groups = {
            "posterior": self.draws,
            "log_likelihood": self.log_likelihood,
            "observed_data": self.observed,
        }
        attrs = {**ATTRS, "method": self.method, "seed": self.seed}
        coords, dims = coords or {}, dims or {}
        found = datasets(groups, self.dims, coords, dims, attrs)
        if self.stats:
            found["sample_stats"] = dataset(as_arrays(self.stats), {}, {}, attrs, drawn=True)
        for each in predictions:
            parts = each.groups(self.observed)
            found |= datasets(parts, each.dims, coords, dims, ATTRS, anew=True)
        return joined(found, attrs)

    def summary(self, sites: Sequence[str] | None = None) -> pandas.DataFrame:
        """One row for each number: mean, sd, quantiles, Monte Carlo errors, ESS and R-hat.

        The diagnostics of a single chain take its two halves for chains.
        """
        import pandas

        chosen = {name: self[name] for name in sites} if sites else self.draws
        rows = {name: figures(x) for name, x in numbers(chosen)}
        return pandas.DataFrame.from_dict(rows, orient="index", columns=COLUMNS)

    def loo(self, sites: Sequence[str] | None = None) -> Loo:
        """How well each observation is predicted by the others; entries of factors count as such.

        Draws of an approximation count by their weights, ``stats["log_weight"]``.

        Args:
            sites: those whose entries are left out; all of the log likelihood unless given.

        Errors:
            DataError: the fit holds no log likelihood, or none of such a site; or a single draw.
        """
        weights = self.stats.get("log_weight")
        if sites is None:
            return leave_one_out(self.log_likelihood, self.factors, weights, self.observed)
        if unknown := [name for name in sites if name not in self.log_likelihood]:
            what = f"the fit holds no log likelihood of {unknown}"
            raise DataError(located(what, hint=f"it has that of {list(self.log_likelihood)}"))
        logs = {name: self.log_likelihood[name] for name in sites}
        return leave_one_out(logs, (), weights, self.observed)

    def warnings(self) -> list[str]:
        """What a reader should know before believing these draws; empty if nothing."""
        found = list(self.notes)
        if self.interrupted and self.size:
            found.append(f"the run was interrupted: it holds {self.size} draws a chain")
        if self.divergences:
            found.append(
                f"{self.divergences} of {self.chains * self.size} draws diverged: raise the target "
                "acceptance, or reparameterise"
            )
        if met := self._without_decomposition:
            found.append(
                f"at {met} points that were tried a matrix had no Cholesky factor, inverse or "
                "spectrum, and the density counts as zero: add to its diagonal, or use float64"
            )
        of_chains = {"diverging", "acceptance_rate"} & self.stats.keys()  # not independent draws
        if of_chains and self.size < 4:
            found.append(f"{self.size} draws a chain tell nothing of whether it has converged")
        elif of_chains:
            table = self.summary()
            if (worst := float(table["r_hat"].max())) > 1.01:
                shown = f"{worst:.3f}" if worst < 1000 else "over 1000"
                who = "chains" if self.chains > 1 else "halves of the chain"
                found.append(f"R-hat reaches {shown}: the {who} disagree, run longer")
            if (least := float(table["ess_bulk"].min())) < 100 * min(self.chains, 4):
                found.append(f"bulk ESS falls to {least:.0f}: run longer for stable estimates")
        return found

    def save(self, path: str | Path) -> None:
        """Write everything to one file."""
        torch.save(asdict(self), path)

    @staticmethod
    def load(path: str | Path) -> Fit:
        """Read what ``save`` wrote; nothing but tensors and plain values is unpickled."""
        content = torch.load(path, weights_only=True)
        try:
            return Fit(**content)
        except TypeError as error:
            raise DataError(located(f"{path} does not hold a fit: {error}")) from error

    def _repr_html_(self) -> str:
        """What is printed, the first rows of the summary, and, if these are all, the warnings."""
        rows = list(islice(numbers(self.draws), ROWS + 1))
        shown = [(name, *(f"{each:.4g}" for each in figures(x))) for name, x in rows[:ROWS]]
        below = paragraph("...") if len(rows) > ROWS else listed(self.warnings())
        return text(self) + table(("", *COLUMNS), shown) + below

    def __repr__(self) -> str:
        shapes = _shown({n: list(x.shape[2:]) for n, x in self.draws.items()})
        lines = [
            f"Fit by {self.method}: {self.chains} x {self.size} draws of {', '.join(shapes)} "
            f"(seed {self.seed}, {self.seconds:.1f} s)"
        ]
        if single := [name for name, x in self.draws.items() if x.dtype == torch.float32]:
            lines.append(f"  in single precision: {', '.join(single)}")
        if self.divergences is not None:
            lines.append(f"  divergences: {self.divergences}")
        if self.log_evidence is not None:
            error = self.log_evidence_error
            spread = "" if error is None else f" +- {error:.3f}" if error else " (exact)"
            lines.append(f"  log evidence: {self.log_evidence:.4f}{spread}")
        if "k_hat" in self.stats and self.size:
            lines.append(f"  k-hat: {float(self.stats['k_hat'][0, 0]):.2f}")
        if self.interrupted:
            lines.append("  interrupted before its end")
        return "\n".join(lines)


def _shown(shapes: dict[str, list[int]]) -> list[str]:
    """Names with their shapes; of the steps of a loop only the first and last number."""
    groups: dict[tuple[str, str], list[str]] = {}
    for name, shape in shapes.items():
        base, index = split_name(name)
        groups.setdefault((base if index else name, str(shape or "")), []).append(name)
    return [
        f"{names[0]}{shape}" if len(names) < 3 else f"{names[0]} ... {names[-1]}{shape}"
        for (_, shape), names in groups.items()
        for names in ([names] if len(names) > 2 else [[name] for name in names])
    ]


class Drawn(Protocol):
    """What vectors stand for: see ``LogDensity``."""

    def record(self, u: Tensor) -> Recorder: ...

    def results(
        self, u: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]: ...


def fit_from_vectors(density: Drawn, u: Tensor, *, draws_anew: bool = False, **about: Any) -> Fit:
    """The fit that vectors u [chains, draws, d] in the coordinates of ``density`` stand for.

    ``draws_anew``: what they stand for is partly drawn, for each anew.

    The log likelihood is left out, with a note, where it would hold over 50 million numbers.
    """
    chains, size = u.shape[:2]
    record = density.record(u.new_zeros(u.shape[-1]))
    entries = sum(x.numel() for x in record.pointwise.values())
    pointwise = entries * chains * size <= POINTWISE_LIMIT
    if not pointwise:
        about["notes"] = (*about.get("notes", ()), TOO_LARGE)

    def one(vector: Tensor) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        values, derived, log_likelihood = density.results(vector)
        return values, derived, log_likelihood if pointwise else {}

    rows = max(1, min(CHUNK, ENTRIES // max(entries, 1)))
    randomness = "different" if draws_anew else "error"
    latents, derived, log_likelihood = _by_chain(one, u, rows, randomness)
    return Fit(
        draws={**latents, **derived},
        log_likelihood=log_likelihood,
        observed=record.of("observed"),
        dims=plates_of(record),
        latents=tuple(latents),
        factors=record.factors,
        **about,
    )


def plates_of(record: Recorder) -> dict[str, list[str]]:
    """The plate of each dimension of the sites that have one; those of a factor's entries."""
    found = {}
    for name, names in record.dims.items():
        if record.sites[name] == "auxiliary" and name in record.log_probs:
            names = names[: record.log_probs[name].ndim]
        if any(names):
            found[name] = names
    return found


def _by_chain(one: Any, u: Tensor, rows: int, randomness: str) -> Any:
    """``one`` mapped over vectors [chains, draws, d], so many rows at once; both axes come back."""
    flat = u.flatten(0, 1)
    mapped = torch.func.vmap(one, randomness=randomness)
    with torch.no_grad():
        if len(flat) == 0:
            like = one(u.new_zeros(u.shape[-1]))
            return tree_map(lambda x: x.new_zeros((*u.shape[:2], *x.shape)), like)
        whole: Any = None
        for start in range(0, len(flat), rows):
            found = mapped(flat[start : start + rows])
            if whole is None:
                whole = tree_map(lambda x: x.new_empty((len(flat), *x.shape[1:])), found)
            tree_map(partial(_put, start), whole, found)
    return tree_map(lambda x: x.reshape(*u.shape[:2], *x.shape[1:]), whole)


def _put(start: int, whole: Tensor, part: Tensor) -> None:
    """Write a part of the rows of a tensor, from this one on."""
    whole[start : start + len(part)] = part
