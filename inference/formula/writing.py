"""The program of a formula, as text."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ...ppl.errors import DataError, located
from .design import Array, Block, Design, Term
from .families import Family
from .priors import WIDTH, half_normal, means, normal, short, widths

if TYPE_CHECKING:
    import pandas

HEAD = "import torch\n\nfrom pushforward import deterministic, dist, plate, program, sample\n\n\n"
OWN = ("torch", "deterministic", "dist", "plate", "program", "sample", "model", "n", "eta")


@dataclass(frozen=True)
class Argument:
    """An argument of the program: its value for the data, and for others."""

    name: str
    value: Any
    anew: Callable[[pandas.DataFrame], Any]


@dataclass
class Writing:
    """A program while it is written.

    effects: the standard normal effects of each block, by site.
    coords, dims: labels of dimensions, and those of sites, as ``Fit.to_arviz`` takes them.
    sampled: the sites that have priors.
    """

    priors: Mapping[str, str]
    lines: list[str] = field(default_factory=list)
    arguments: list[Argument] = field(default_factory=list)
    effects: dict[str, Block] = field(default_factory=dict)
    coords: dict[str, list[str]] = field(default_factory=dict)
    dims: dict[str, list[str]] = field(default_factory=dict)
    sampled: list[str] = field(default_factory=list)
    _names: set[str] = field(default_factory=lambda: {*OWN, *keyword.kwlist})
    _sites: set[str] = field(default_factory=set)
    _columns: dict[str, Term] = field(default_factory=dict)

    def name(self, wanted: str) -> str:
        """A free name for a variable, near to the one wanted."""
        plain = re.sub(r"\W+", "_", wanted).strip("_") or "x"
        plain = plain if plain.isidentifier() else f"x_{plain}"
        return _free(plain, self._names)

    def site(self, wanted: str) -> str:
        """A free name for a site or a dimension; without what paths and steps are written with."""
        plain = re.sub(r"\W+", "_", wanted).strip("_") if set(wanted) & set('/[]"\\') else wanted
        return _free(plain, self._sites)

    def add(self, line: str) -> None:
        self.lines.append(line)

    def latent(self, variable: str, site: str, prior: str, indent: str = "") -> None:
        """A line that samples a site from a prior, or the one that the user gives."""
        self.sampled.append(site)
        self.add(f'{indent}{variable} = sample("{site}", {self.priors.get(site, prior)})')

    def argument(self, wanted: str, value: Any, anew: Callable[[pandas.DataFrame], Any]) -> str:
        name = self.name(wanted)
        self.arguments.append(Argument(name, value, anew))
        return name

    def columns(self, term: Term) -> str:
        """The argument with the columns of a term; equal ones are one."""
        for name, known in self._columns.items():
            if known.name == term.name and np.array_equal(known.columns, term.columns):
                return name
        name = self.argument(term.name, term.columns, term.anew)
        self._columns[name] = term
        return name


def _free(wanted: str, taken: set[str]) -> str:
    while wanted in taken:
        wanted += "_"
    taken.add(wanted)
    return wanted


def written(
    design: Design,
    law: Family,
    y: Array,
    categories: Sequence[str] | None,
    about: Sequence[str],
    priors: Mapping[str, str],
) -> tuple[str, Writing, str]:
    """The text of the program, how it was written, and the site of the response.

    Args:
        y: the responses, as ``explained`` gives them, of these categories.
        about: lines of the docstring.
        priors: texts, by site.

    Errors:
        DataError: a prior is of no site.
    """
    w = Writing(priors)
    for variable in ("trials", "cutpoints", *(site for site, _ in law.others), *_assigned(law)):
        w.name(variable)
    w.arguments.append(Argument("n", design.rows, len))
    response, spread = w.site(design.response.name), law.spread(y)
    centred = design.intercept or not law.has_intercept
    shift = _coefficients(w, design.terms, spread, centred)
    if not law.has_intercept:
        _cutpoints(w, len(categories or ()), shift)
        _start(w, [f"{b} * {x}" if one else f"{x} @ {b}" for x, b, _, one in shift])
    elif design.intercept:
        _intercept(w, normal(law.location(y), WIDTH * spread), shift)
    else:
        _start(w, [f"{b} * {x}" if one else f"{x} @ {b}" for x, b, _, one in shift])
    for term in design.offsets:
        w.add(f"eta = eta + {w.columns(term)}")
    for block in design.blocks:
        _group(w, block, spread)
    if design.response.trials is not None:
        w.arguments.append(Argument("trials", design.response.trials, design.response.anew))
    for site, prior in law.others:
        w.latent(site, w.site(site), prior.format(sd=short(spread)))
    for line in law.steps:
        w.add(line)
    w.add(f'with plate("{w.site("row")}", n):')
    w.add(f'    sample("{response}", {law.law})')
    w.add(f"return {law.expected}")
    if unknown := [site for site in priors if site not in w.sampled]:
        what = f"formula: there is no site {unknown} that a prior could be of"
        raise DataError(located(what, hint=f"the sites are {', '.join(w.sampled)}"))
    names = ", ".join(argument.name for argument in w.arguments)
    says = [line.replace("\\", "\\\\").replace('"', "'") for line in about]
    doc = [f'"""{says[0]}', *([""] if says[1:] else []), *says[1:]]
    doc = [*doc, '"""'] if says[1:] else [f'{doc[0]}"""']
    body = "\n".join(f"    {line}" if line else "" for line in [*doc, *w.lines])
    return f"{HEAD}@program\ndef model({names}):\n{body}\n", w, response


def _assigned(law: Family) -> list[str]:
    """The variables that the steps of a law assign."""
    return [line.partition(" = ")[0] for line in law.steps]


Coefficient = tuple[str, str, str, bool]  # argument, coefficient, means, whether it is one number


def _coefficients(
    w: Writing, terms: Sequence[Term], spread: float, centred: bool
) -> list[Coefficient]:
    """Lines that sample the coefficients of terms, and say their means where these are needed."""
    found = []
    for term in terms:
        x, b, site = w.columns(term), w.name(f"b_{term.name}"), w.site(term.name)
        prior, one = normal(0.0, widths(term, spread)), term.columns.ndim == 1
        if one:
            w.latent(b, site, prior)
        else:
            dim = w.site(f"{site}_level")
            w.add(f'with plate("{dim}", {term.size}):')
            w.latent(b, site, prior, indent="    ")
            w.coords[dim] = list(term.labels)
        found.append((x, b, _means(w, term, one) if centred else "", one))
    return found


def _means(w: Writing, term: Term, one: bool) -> str:
    """The means of the columns of a term; those of several have a line of their own."""
    centre = means(term.columns)
    if one:
        return centre
    name = w.name(f"mean_{term.name}")
    w.add(f"{name} = {centre}")
    return name


def _start(w: Writing, products: Sequence[str]) -> None:
    w.add(f"eta = {' + '.join(products) or 'torch.zeros(n)'}")


def _intercept(w: Writing, prior: str, terms: Sequence[Coefficient]) -> None:
    """The intercept, whose prior is at the means of the columns."""
    if not terms:
        w.latent(w.name("Intercept"), w.site("Intercept"), prior)
        w.add("eta = Intercept.expand(n)")
        return
    w.latent(w.name("level"), w.site("Intercept_centred"), prior)
    moved = [f"{b} * {mean}" if one else f"{mean} @ {b}" for _, b, mean, one in terms]
    w.add(f'deterministic("{w.site("Intercept")}", level - {" - ".join(moved)})')
    centred = [
        f"{b} * ({x} - {mean})" if one else f"({x} - {mean}) @ {b}" for x, b, mean, one in terms
    ]
    _start(w, ["level", *centred])


def _cutpoints(w: Writing, categories: int, terms: Sequence[Coefficient]) -> None:
    """Cutpoints, such that at the means of the columns the categories have Dirichlet's law."""
    w.latent(w.name("shares"), w.site("shares"), f"dist.Dirichlet(torch.ones({categories}))")
    moved = [f" + {b} * {mean}" if one else f" + {mean} @ {b}" for _, b, mean, one in terms]
    at = f"torch.logit(shares.cumsum(-1)[:-1]){''.join(moved)}"
    w.add(f'cutpoints = deterministic("{w.site("cutpoints")}", {at})')


def _group(w: Writing, block: Block, spread: float) -> None:
    """The effects of a factor: standard normal, times their deviations and correlations."""
    many, factor = block.size > 1, block.factor
    index = w.argument(factor, block.index, lambda frame: block.find(frame)[0])
    known = len(block.levels)
    count = w.argument(f"levels_{factor}", known, lambda frame: known + len(block.find(frame)[1]))
    sd, z, effect = (w.name(f"{kind}_{factor}") for kind in ("sd", "z", "effect"))
    sd_site, z_site, site = (w.site(f"{kind}_{factor}") for kind in ("sd", "z", "effect"))
    plate, dim = w.site(factor), w.site(f"{factor}_effect")
    scales = np.concatenate([np.atleast_1d(widths(term, spread)) for term in block.terms])
    if many:
        w.add(f'with plate("{dim}", {block.size}):')
        w.latent(sd, sd_site, half_normal(scales), indent="    ")
        w.coords[dim] = list(block.labels)
    else:
        w.latent(sd, sd_site, half_normal(float(scales[0])))
    scaled = f"{sd} * {z}"
    if many and block.correlated:
        chol, chol_site = w.name(f"chol_{factor}"), w.site(f"chol_{factor}")
        w.latent(chol, chol_site, f"dist.LKJCholesky({block.size}, 1.0)")
        w.add(f'deterministic("{w.site(f"corr_{factor}")}", {chol} @ {chol}.mT)')
        scaled = f"{z} @ ({sd}[:, None] * {chol}).mT"
    w.add(f'with plate("{plate}", {count}):')
    zeros = f"torch.zeros({block.size})" if many else "0.0"
    law = f"dist.Normal({zeros}, 1.0){'.to_event(1)' if many else ''}"
    w.add(f'    {z} = sample("{z_site}", {law})')
    w.add(f'{effect} = deterministic("{site}", {scaled})')
    w.effects[z_site] = block
    w.coords[plate] = list(block.levels)
    dims = [plate, dim] if many else [plate]
    w.dims |= {z_site: dims, site: dims}
    at, parts = 0, []
    for term in block.terms:
        place = f", {at}" if many else ""
        if term.is_one:
            parts.append(f"{effect}[{index}{place}]")
        elif term.columns.ndim == 1:
            parts.append(f"{effect}[{index}{place}] * {w.columns(term)}")
        else:
            which = f"{effect}[{index}]" + (f"[:, {at}:{at + term.size}]" if many else "[:, None]")
            parts.append(f"({which} * {w.columns(term)}).sum(-1)")
        at += term.size
    w.add(f"eta = eta + {' + '.join(parts)}")
