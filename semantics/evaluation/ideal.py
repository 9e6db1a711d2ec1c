"""The ideal meaning of ``normalize`` in every interpretation: ``with ideal():``."""

from __future__ import annotations

from pyro.poutine.messenger import Messenger

from ...ppl.language.effects import Message
from .denote import DEPTH, solved
from .exact import Evaluator


class ideal(Messenger):  # type: ignore[misc]
    """Within ``with ideal():``, ``normalize`` has its exact meaning in every interpretation.

    Sampling, assessing and capture then meet the normalised measure as a finite law, computed by an
    exact evaluation of the query.
    """

    def __init__(self, budget: int = 200_000, quadrature: int | None = None) -> None:
        super().__init__()
        self.budget, self.quadrature = budget, quadrature

    def _process_message(self, msg: Message) -> None:
        if msg["type"] == "normalize" and msg["value"] is None:
            evaluator = Evaluator(
                budget=self.budget,
                quadrature=self.quadrature,
                merge=True,
                depth=DEPTH,
                solve=solved,
            )
            msg["value"] = evaluator.normalized(msg["infer"]["query"], msg["args"])
            msg["done"] = True
