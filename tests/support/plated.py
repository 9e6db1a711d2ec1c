"""Random finite programs with plates, whose indices are used, masks of every kind, and groups.

A member says which sites there are; ``Plated.program`` writes them as a user would, with tensors,
and ``Plated.weights`` sums them by hand, element by element, in plain Python.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from torch import Tensor

from pushforward import dist

Index = tuple[int, ...]  # of an element: its place in each plate of the site, outermost first
Assignment = dict[tuple[str, Index], int]

# Plates: the dimension of each.  "c" takes the place of "a" for other sites.
DIMS = {"a": -1, "b": -2, "c": -1}
SHAPES = ((), ("a",), ("b",), ("b", "a"), ("c",))


@dataclass(frozen=True)
class Look:
    """A look at a latent: aligned by plates, through a table of indices, or at one element."""

    latent: str
    how: str  # "aligned", "table", "element"
    table: tuple[int, ...] = ()

    def value(self, x: Tensor, here: dict[str, Tensor]) -> Tensor:
        """As a user writes it."""
        if self.how == "table":
            return x[..., torch.tensor(self.table)]
        if self.how == "element":
            return x[..., self.table[0]]
        return x

    def element(self, plates: tuple[str, ...], at: dict[str, int]) -> Index:
        """Which element it is, for an element of the site that looks."""
        if self.how == "element":
            return (self.table[0],)
        if self.how == "table":
            (inner,) = (at[n] for n in at if DIMS[n] == -1)
            return (self.table[inner],)
        return tuple(at[n] for n in plates)


@dataclass(frozen=True)
class Site:
    """A Bernoulli site: its chance is q, by index, or by what it looks at.

    ``hard``: where what it looks at is 0, its chance is 0 (or 1).  ``mask``: "none", "handler",
    "law", "all" (a handler that hides everything) or "obs" (Pyro's ``obs_mask``).
    """

    name: str
    plates: tuple[str, ...]
    chances: dict[Index, float]
    look: Look | None
    effect: float
    hard: str
    mask: str
    hidden: dict[Index, bool]
    data: dict[Index, int] | None

    def chance(self, index: Index, looked: int | None) -> float:
        q = self.chances[index]
        if looked is None:
            return q
        if self.hard == "zero":
            return q * looked
        if self.hard == "one":
            return 1 - (1 - q) * looked
        return q * (1 - self.effect * looked)


@dataclass(frozen=True)
class Plated:
    """A program: the sizes of its plates, and its sites in order; ``part``: rows of plate "c"."""

    sizes: dict[str, int]
    sites: list[Site]
    part: tuple[int, ...] | None = None
    number: int = field(default=0, compare=False)

    def latents(self) -> list[Site]:
        return [site for site in self.sites if site.data is None]

    def indices(self, site: Site) -> list[Index]:
        rows = {"c": self.part} if self.part is not None else {}
        return list(itertools.product(*(rows.get(n) or range(self.sizes[n]) for n in site.plates)))

    # ------------------------------------------------------------------------- as a user writes it

    def program(self) -> Any:
        def run() -> tuple[Tensor, ...]:
            values: dict[str, Tensor] = {}
            for site in self.sites:
                self._sample(site, values)
            return tuple(values[site.name] for site in self.latents())

        return run

    def _sample(self, site: Site, values: dict[str, Tensor]) -> None:
        here: dict[str, Tensor] = {}
        with _All() as within:
            for n in sorted(site.plates, key=DIMS.__getitem__, reverse=True):
                given = {"subsample": torch.tensor(self.part)} if n == "c" and self.part else {}
                entered = pyro.plate(f"{n}_{site.name}", self.sizes[n], dim=DIMS[n], **given)
                here[n] = within.enter(entered)
            q = self._by_index(site, site.chances, here).double()
            if site.look is not None:
                x = site.look.value(values[site.look.latent], here)
                if site.hard == "zero":
                    q = q * x
                elif site.hard == "one":
                    q = 1 - (1 - q) * x
                else:
                    q = q * (1 - site.effect * x)
            law = dist.Bernoulli(q)
            shown = ~self._by_index(site, site.hidden, here).bool()
            if site.mask == "handler":
                within.enter(pyro.poutine.mask(mask=shown))
            elif site.mask == "all":
                within.enter(pyro.poutine.mask(mask=False))
            elif site.mask == "law":
                law = law.mask(shown)
            if site.data is None:
                values[site.name] = pyro.sample(site.name, law)
                return
            data = self._by_index(site, site.data, here).double()
            if site.mask == "obs":
                law = law.expand(shown.shape)
                pyro.sample(site.name, law, obs=data, obs_mask=shown)
            else:
                pyro.sample(site.name, law, obs=data)

    def _by_index(self, site: Site, table: dict[Index, Any], here: dict[str, Tensor]) -> Tensor:
        """A table, indexed by the indices that the plates give."""
        full = torch.zeros([self.sizes[n] for n in site.plates], dtype=torch.float64)
        for index, value in table.items():
            full[index] = float(value)
        if not site.plates:
            return full
        if len(site.plates) == 2:
            return full[here["b"][:, None], here["a"]]
        (n,) = site.plates
        return full[here[n]][:, None] if n == "b" else full[here[n]]

    # ------------------------------------------------------------------------------------ by hand

    def assignments(self) -> Iterator[Assignment]:
        places = [(site.name, i) for site in self.latents() for i in self.indices(site)]
        for values in itertools.product((0, 1), repeat=len(places)):
            yield dict(zip(places, values, strict=True))

    def weights(self, given: Assignment) -> tuple[float, float]:
        """The prior probability of an assignment, and the likelihood of the data there."""
        prior = likelihood = 1.0
        plates = {site.name: site.plates for site in self.sites}
        for site in self.sites:
            scale = self.sizes["c"] / len(self.part) if self.part and "c" in site.plates else 1.0
            for index in self.indices(site):
                at = dict(zip(site.plates, index, strict=True))
                looked = None
                if site.look is not None:
                    own = site.look.element(plates[site.look.latent], at)
                    looked = given[site.look.latent, own]
                p = site.chance(index, looked)
                if site.data is None:
                    prior *= p if given[site.name, index] else 1 - p
                elif site.mask != "all" and (site.mask == "none" or not site.hidden[index]):
                    likelihood *= (p if site.data[index] else 1 - p) ** scale
        return prior, likelihood

    def values(self, given: Assignment) -> dict[str, Tensor]:
        """An assignment as tensors."""
        found = {}
        for site in self.latents():
            shape = [self.sizes[n] for n in site.plates]
            flat = [float(given[site.name, index]) for index in self.indices(site)]
            x = torch.tensor(flat, dtype=torch.float64).reshape(shape)
            found[site.name] = x[:, None] if site.plates == ("b",) else x
        return found

    def measure(self) -> dict[Any, float]:
        """The weight of each joint value of the latents, flattened."""
        found: dict[Any, float] = {}
        for given in self.assignments():
            prior, likelihood = self.weights(given)
            if prior * likelihood > 0:
                key = tuple(tuple(x.flatten().tolist()) for x in self.values(given).values())
                found[key] = prior * likelihood
        return found


class _All:
    """Contexts that are entered one after the other."""

    def __enter__(self) -> _All:
        self.open: list[Any] = []
        return self

    def enter(self, context: Any) -> Any:
        self.open.append(context)
        return context.__enter__()

    def __exit__(self, *error: Any) -> None:
        for context in reversed(self.open):
            context.__exit__(*error)


def plated(number: int) -> Plated:
    """A member of the class, the same for a number."""
    draw = random.Random(number)
    sizes = {"a": draw.randint(1, 3), "b": draw.randint(1, 2), "c": draw.randint(2, 4)}
    sites: list[Site] = []
    elements = 0
    for i in range(draw.randint(1, 3)):
        plates = draw.choice(SHAPES[:4])
        count = math.prod(sizes[n] for n in plates)
        if elements + count > 6:
            continue
        elements += count
        sites.append(_site(draw, f"x{i}", plates, sizes, sites, observed=False))
    for i in range(draw.randint(1, 2)):
        sites.append(_site(draw, f"y{i}", draw.choice(SHAPES), sizes, sites, observed=True))
    rows = None
    if draw.random() < 0.3:
        rows = tuple(draw.sample(range(sizes["c"]), draw.randint(1, sizes["c"])))
    if any(s.look and s.look.how == "table" and "c" in s.plates for s in sites):
        rows = None  # such a table is for all rows
    if any(s.mask == "obs" and "c" in s.plates for s in sites):
        rows = None  # what is not observed would be a latent that is scaled
    return Plated(sizes, sites, rows, number)


def _site(
    draw: random.Random,
    name: str,
    plates: tuple[str, ...],
    sizes: dict[str, int],
    before: list[Site],
    observed: bool,
) -> Site:
    indices = list(itertools.product(*(range(sizes[n]) for n in plates)))
    latents = [site for site in before if site.data is None]
    wide = [site for site in latents if site.plates and draw.random() < 0.8]
    for candidates in (wide, latents):
        if looks := [look for site in candidates for look in _looks(draw, site, plates, sizes)]:
            break
    look = draw.choice(looks) if looks and draw.random() < 0.85 else None
    masks = ["none", "none", "handler", "law", "all", *(["obs"] if observed and plates else [])]
    return Site(
        name,
        plates,
        {i: round(draw.uniform(0.05, 0.95), 2) for i in indices},
        look,
        round(draw.uniform(0.2, 0.9), 2),
        draw.choice(["no", "no", "no", "zero", "one"]),
        draw.choice(masks),
        {i: draw.random() < 0.4 for i in indices},
        {i: draw.randint(0, 1) for i in indices} if observed else None,
    )


def _looks(
    draw: random.Random, site: Site, plates: tuple[str, ...], sizes: dict[str, int]
) -> Iterator[Look]:
    """The looks at a latent that a site in these plates may take."""
    if set(site.plates) <= set(plates):
        yield Look(site.name, "aligned")
    if site.plates == ("a",):
        yield Look(site.name, "element", (draw.randrange(sizes["a"]),))
        inner = [n for n in plates if DIMS[n] == -1]
        if inner:
            table = tuple(draw.randrange(sizes["a"]) for _ in range(sizes[inner[0]]))
            yield Look(site.name, "table", table)
