"""What was predicted: sites that were sampled anew."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...ppl.errors import DataError, located
from ...ppl.pages import text
from .arviz import joined
from .groups import Coords, Dims, datasets

ATTRS = {"inference_library": "pushforward"}


@dataclass(frozen=True)
class Prediction:
    """Sites that were sampled anew, deterministic sites, and results, [chains, draws, *shape].

    dims: the plate of each dimension of a site.
    data: the sites that the program observes.
    prior: nothing was given: all is drawn from the prior.
    """

    sites: dict[str, Tensor]
    value: Any
    dims: dict[str, list[str]] = field(default_factory=dict)
    data: tuple[str, ...] = ()
    prior: bool = False

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.sites:
            raise DataError(located(f"nothing was predicted at '{name}', only {list(self.sites)}"))
        return self.sites[name]

    def groups(self, data: Collection[str] = ()) -> dict[str, dict[str, Tensor]]:
        """The sites by ArviZ's groups.

        Of the prior what stands for data is the prior predictive, and the rest the prior: what
        the program observes, and the sites that are named.
        """
        if not self.prior:
            return {"posterior_predictive": self.sites}
        of_data = {*self.data, *data}
        return {
            "prior": {name: x for name, x in self.sites.items() if name not in of_data},
            "prior_predictive": {name: x for name, x in self.sites.items() if name in of_data},
        }

    def to_arviz(
        self, group: str | None = None, coords: Coords | None = None, dims: Dims | None = None
    ) -> Any:
        """ArviZ's object with nothing else: see ``Fit.to_arviz``, which takes predictions too.

        Args:
            group: the group of all sites, such as "predictions", in place of those of ``groups``.
            coords: labels of dimensions.
            dims: names for the dimensions of sites, in place of those of their plates.

        Errors:
            DataError: coords or dims are of no dimension or site, or do not fit it.
        """
        groups = self.groups() if group is None else {group: self.sites}
        return joined(datasets(groups, self.dims, coords or {}, dims or {}, ATTRS), ATTRS)

    def _repr_html_(self) -> str:
        return text(self)

    def __repr__(self) -> str:
        sites = ", ".join(f"{name}{list(x.shape)}" for name, x in self.sites.items())
        return f"Prediction of {sites}"
