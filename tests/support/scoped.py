"""Programs with data from outside, and perhaps a scope between."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from pushforward import condition, program, scope
from pushforward.ppl.language.program import Callback


def with_data(run: Callable[[], None], data: dict[str, Tensor], *, scoped: bool) -> Callback:
    """The program with these data; ``scoped``: its sites and theirs are called ``part/...``."""
    p: Callback = program(run)
    if not scoped:
        return condition(p, data)

    def within() -> None:
        with scope("part"):
            p()

    return condition(program(within), {f"part/{name}": x for name, x in data.items()})
