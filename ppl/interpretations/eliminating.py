"""Programs without some of their latents: finite ones summed out, or real ones integrated out."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from pyro.poutine.runtime import _DIM_ALLOCATOR
from torch import Tensor
from torch.utils._pytree import tree_leaves

from ..distributions.data import as_arguments
from ..errors import ProgramError, located
from ..language.effects import Message, factor, is_draw, is_latent
from ..language.handlers import EVERY, Handler
from ..language.program import Callback, Program, answers, derived, program_name, signature
from ..tensors.abstract_tensor import Abstract, abstract, marks_of
from ..tensors.capture import apart
from ..tensors.following import tensors
from ..tensors.hidden import is_known
from ..tensors.keys import Contents, Unkeyed
from .factors import FiniteLatents, Structures, described
from .quadratic import QuadraticLatents

KEPT = 16  # structures, for arguments of other values


@answers("summed out")
def taken_out(p: Callback, keep: frozenset[str] | None, score: str) -> Program:
    """The program of all latents of p that are not finite, or are to be kept; it returns them.

    The others are summed or integrated out exactly, and what is left is scored as ``score``.
    """
    structures, found = Structures(), _Found()

    def model_of(args: tuple[Any, ...]) -> FiniteLatents | QuadraticLatents:
        if keep is None or structures.of("some finite", args, lambda: _some_finite(p, args, keep)):
            return structures.of(None, args, lambda: FiniteLatents(p, args, keep)).on(args)
        hidden = not all(map(is_known, tensors(args)))
        with apart():  # by values, where they are known: they tell which latents are tied
            key = Contents()((p, signature(args) if hidden else args))
            if key not in found:
                if len(found) == KEPT:
                    del found[next(iter(found))]
                found[key] = QuadraticLatents(p, args, keep)
        return found[key].on(args)

    def run(*args: Any) -> dict[str, Tensor]:
        args = as_arguments(args)
        if plates := [name for name in _DIM_ALLOCATOR._stack if name is not None]:
            what = f"marginal({program_name(p)}, exact=True) is run within the plates {plates}"
            hint = "put the plates into the program that is summed out"
            raise ProgramError(located(what, hint=hint))
        model = model_of(args)
        with _Keeping(model.stand_ins, model.passes_steps) as keeping:
            p(*args)
        marks = marks_of([keeping.kept, args])
        if marks or any(isinstance(x, Abstract) for x in tree_leaves(args)):
            factor(score, abstract(torch.zeros(()), marks))
        else:
            factor(score, model.log_mass(keeping.kept))
        return dict(keeping.kept)

    return derived(run, f"marginal({program_name(p)}, exact)")


class _Found(dict[Hashable, QuadraticLatents], Unkeyed):
    """What was found for arguments and contents; no result depends on it."""


def _some_finite(p: Callback, args: tuple[Any, ...], keep: frozenset[str]) -> bool:
    """Whether a latent that is not kept is finite, or there is none."""
    run = described(p, args)
    left = [site for name, site in run.sites.items() if not site.observed and name not in keep]
    return not left or any(site.space.finite for site in left)


class _Keeping(Handler):
    """Lets the latents that are kept pass, and takes all else out: what follows is a stand-in.

    ``passes_steps``: whether nothing is kept in its loop.
    """

    ignores_draws = True

    def __init__(self, stand_ins: Mapping[str, Tensor], passes_steps: bool) -> None:
        super().__init__()
        self.stand_ins, self.passes_steps = stand_ins, passes_steps

    def __enter__(self) -> Any:
        self.kept: dict[str, Tensor] = {}
        return super().__enter__()

    def state(self) -> Any:
        return dict(self.kept)

    def restore(self, state: Any) -> None:
        self.kept = dict(state)

    def _process_message(self, msg: Message) -> None:
        if msg["type"] != "sample" or is_draw(msg):
            return
        if is_latent(msg):
            name = msg["name"].replace(EVERY, "[0]")
            if name in self.stand_ins:
                self.give(msg, self.stand_ins[name])
            else:
                self.mark(msg, msg["name"])  # before handlers outside give it another
        elif msg["is_observed"]:
            msg["type"], msg["infer"]["absorber"] = "absorbed", self

    def _postprocess_message(self, msg: Message) -> None:
        if name := self.marked(msg):
            self.kept[name] = msg["value"]
