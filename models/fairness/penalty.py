"""A penalty on the dependence of predictions on protected attributes, for losses and programs.

Source: Machine Learning with Multitype Protected Attributes: Intersectional Fairness through
Regularisation (arXiv 2509.08163).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from ...ppl import factor
from .covariance import (
    Attributes,
    Method,
    as_rows,
    beside,
    joint,
    named,
    pair,
    require_finite,
    strata,
)
from .distances import Stat

Kind = Literal["ccdcov", "jdcov", "marginal"]


class DCovPenalty(nn.Module):
    """lam times a squared distance covariance of predictions with attributes.

    By stat "U" the mean over random batches is the penalty of all data; by "V" it is greater.

    Args:
        kind: "ccdcov" of the attributes side by side; "jdcov", jointly; "marginal", the sum of one
            with each, which does not see intersections.
        lam: at least zero.
        c: of "jdcov".
        weights: of "ccdcov"; attributes that are scaled alike count alike.

    Errors:
        ValueError: the kind is unknown or lam negative.
    """

    def __init__(
        self,
        kind: Kind = "ccdcov",
        lam: float = 1.0,
        stat: Stat = "U",
        *,
        c: float = 1.0,
        weights: Sequence[float] | None = None,
        method: Method = "auto",
    ) -> None:
        super().__init__()
        if kind not in ("ccdcov", "jdcov", "marginal"):
            raise ValueError(f"the kind is 'ccdcov', 'jdcov' or 'marginal', not {kind!r}")
        if not lam >= 0:
            raise ValueError(f"lam is not negative, which {lam} is")
        if weights is not None and kind != "ccdcov":
            raise ValueError(f"weights are for 'ccdcov', not for {kind!r}")
        self.kind, self.lam, self.stat, self.c = kind, lam, stat, c
        self.weights, self.method = weights, method

    def forward(self, yhat: Tensor, attributes: Attributes, given: Tensor | None = None) -> Tensor:
        """The penalty [].

        Args:
            yhat: probabilities, rates or means [n] or [n, d].
            attributes: numbers [n] or [n, d] each, by name or in order; the columns of a matrix.
            given: labels [n] or [n, d], within whose strata the penalty is taken, by their shares:
                with true classes it asks for equalised odds.

        Errors:
            ValueError: lengths differ, attributes have a NaN, or there are too few rows.
        """
        about = named(attributes)
        require_finite(about)
        rows = as_rows({"predictions": yhat, **about}, self.stat)
        if given is None:
            return self.lam * self._of(rows)
        require_finite({"given": given})
        parts = strata(as_rows({"predictions": yhat, "given": given}, self.stat)[1], self.stat)
        n = len(rows[0])
        found = [len(part) / n * self._of([x[part] for x in rows]) for part in parts]
        return self.lam * torch.stack(found).sum()

    def _of(self, rows: list[Tensor]) -> Tensor:
        yhat, attributes = rows[0], rows[1:]
        if self.kind == "jdcov":
            return joint(rows, self.c, self.stat, self.method)
        if self.kind == "ccdcov":
            return pair(yhat, beside(attributes, self.weights), self.stat, self.method)
        return torch.stack([pair(yhat, s, self.stat, self.method) for s in attributes]).sum()

    def extra_repr(self) -> str:
        """What the penalty is."""
        return f"{self.kind!r}, lam={self.lam}, stat={self.stat!r}"


def constrain(
    penalty: DCovPenalty,
    yhat: Tensor,
    attributes: Attributes,
    given: Tensor | None = None,
    name: str = "fairness",
) -> None:
    """In a program: multiply its weight by exp(-penalty), a soft constraint on what it predicts.

    Predictions may be random; attributes are data.  Take stat "V", which is not negative, where
    the measure of the program must stay finite whatever is predicted.
    """
    factor(name, -penalty(yhat, attributes, given))
