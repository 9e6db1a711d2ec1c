"""Trace types and program types: the named sites of a program, and its result."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from ..pages import paragraph, table, text
from .spaces import Space
from .values import Value

MANY = 50  # sites that a table has no room for


@dataclass(frozen=True)
class Site:
    """One named site: its space, whether it is observed, its plates, and where it is written.

    ``auxiliary``: marked ``infer={"is_auxiliary": True}``, a guide's choice and not the model's.
    ``law``: a density on the space; or a single ``value`` (``Delta``), a "point", or an "image" if
    it is computed from auxiliary choices: there ``value`` is that of one possible choice.
    """

    space: Space
    observed: bool = False
    plates: tuple[str, ...] = ()
    line: str | None = None
    auxiliary: bool = False
    law: Literal["density", "point", "image"] = "density"
    value: Tensor | None = field(default=None, compare=False)


@dataclass(frozen=True, repr=False)
class TraceType:
    """An ordered record of named sites."""

    sites: Mapping[str, Site]

    @property
    def latents(self) -> dict[str, Site]:
        """The sites that are not observed."""
        return {name: site for name, site in self.sites.items() if not site.observed}

    def __repr__(self) -> str:
        marks = {name: " observed" if site.observed else "" for name, site in self.sites.items()}
        entries = {name: (str(site.space), marks[name]) for name, site in self.sites.items()}
        while (grouped := _grouped(entries)) != entries:
            entries = grouped
        return (
            f"{{{', '.join(f'{name}: {space}{mark}' for name, (space, mark) in entries.items())}}}"
        )

    def _repr_html_(self) -> str:
        if len(self.sites) > MANY:
            return text(self)
        rows = [
            (name, site.space, "observed" if site.observed else "latent", ", ".join(site.plates))
            for name, site in self.sites.items()
        ]
        return table(("site", "space", "is", "plates"), rows)


def _grouped(entries: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Replace equal entries ``z[0] .. z[n-1]`` by one entry ``z`` of the n-th power."""
    families: dict[str, list[str]] = {}
    for name in entries:
        if match := re.fullmatch(r"(.+)\[\d+\]", name):
            families.setdefault(match[1], []).append(name)
    renamed: dict[str, tuple[str, tuple[str, str]]] = {}
    dropped: set[str] = set()
    for base, names in families.items():
        complete = names == [f"{base}[{i}]" for i in range(len(names))]
        if complete and base not in entries and len({entries[name] for name in names}) == 1:
            text, mark = entries[names[0]]
            power = (f"({text})" if "^" in text else text) + f"^{len(names)}"
            renamed[names[0]] = base, (power, mark)
            dropped.update(names[1:])
    kept = (item for item in entries.items() if item[0] not in dropped)
    return dict(renamed.get(name, (name, entry)) for name, entry in kept)


@dataclass(frozen=True, repr=False)
class ProgramType:
    """Arguments, trace type and result: ``P`` (probability) if unscored, else ``M`` (measure).

    ``declared`` is the annotation of the result, if there is one; it is printed in place of what
    was found.
    """

    arguments: tuple[Value, ...]
    trace: TraceType
    result: Value
    probability: bool
    declared: Value | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"{self.trace} -> {self._result}"

    @property
    def _result(self) -> str:
        result = self.result if self.declared is None else self.declared
        return f"{'P' if self.probability else 'M'} {result}"

    def _repr_html_(self) -> str:
        return self.trace._repr_html_() + paragraph(f"-> {self._result}")
