"""What a rewriting is, how rewritings follow each other, and how draws come back from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...ppl.distributions.validate import no_validation
from ...ppl.interpretations.log_density import LogDensity
from ...ppl.interpretations.recorder import Recorder
from ...ppl.language.handlers import Sealed
from ...ppl.language.program import Callback
from .centring import chosen_centring, decentred
from .finite import finite_latents, summed
from .quadratic import integrated, quadratic_latents

Values = dict[str, Tensor]


def _themselves(values: Values) -> Values:
    return values


@dataclass(frozen=True)
class Rewriting:
    """A program in place of another, with the same arguments.

    ``restored`` makes the latents of the other from those of one run of ``program``: if these have
    the law of the one, those have that of the other.  ``done`` says in words what was rewritten.
    """

    program: Callback
    restored: Callable[[Values], Values] = _themselves
    done: tuple[str, ...] = ()

    def then(self, later: Rewriting) -> Rewriting:
        """A rewriting of what this one made."""

        def restored(values: Values) -> Values:
            return self.restored(later.restored(values))

        return Rewriting(later.program, restored, self.done + later.done)


ROUNDS = 3  # of runs that tell what to rewrite next


def rewritten(
    p: Callback, args: tuple[Any, ...], notify: Callable[[str], None] | None = None
) -> Rewriting:
    """Sum finite latents out, integrate quadratic ones out, write others by location and scale.

    Whether the last helps is told by a short run of NUTS on the program as it is (``centring``).

    Errors:
        BudgetError: too many finite latents depend on each other.
        ProgramError: another latent depends on a finite one.
    """
    found = Rewriting(p)

    def follow(names: list[str], how: str, rewrite: Callable[..., Any]) -> None:
        nonlocal found
        program, restored = rewrite(found.program, args, names)
        what = f"{_listed(names)} {how}"
        found = found.then(Rewriting(program, restored, (what,)))
        if notify is not None:
            notify(what)

    if names := finite_latents(p, args):
        follow(names, "summed out", lambda p, args, _: summed(p, args))
    if names := quadratic_latents(found.program, args):
        follow(names, "integrated out", integrated)
    for _ in range(ROUNDS):
        if not (names := chosen_centring(found.program, args)):
            break
        follow(names, "non-centred", decentred)
    return found


def _listed(names: list[str]) -> str:
    return ", ".join(names) if len(names) < 4 else f"{names[0]} ... {names[-1]}"


class Restored:
    """The draws of a rewritten program as those of the program itself: see ``LogDensity``."""

    def __init__(
        self, density: LogDensity, rewriting: Rewriting, p: Callback, args: tuple[Any, ...]
    ) -> None:
        self.density, self.rewriting, self.program, self.args = density, rewriting, p, args

    def record(self, u: Tensor) -> Recorder:
        """One run of the program at the vector [d] of the rewritten one."""
        values = dict(self.density.layout.values(u)[0])
        given = self.rewriting.restored(values)
        with no_validation(), Sealed(), Recorder(given, density=True, validate=False) as recorder:
            self.program(*self.args)
        return recorder

    def results(self, u: Tensor) -> tuple[Values, Values, Values]:
        """Latents, deterministic sites, and log densities of data one by one, at one vector [d]."""
        recorder = self.record(u)
        return recorder.of("latent"), recorder.of("derived"), recorder.pointwise
