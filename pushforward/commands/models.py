"""``pushforward models``: the systems that are ready, with what each is for."""

from __future__ import annotations

from typing import Annotated

import typer

from ..models.systems import SYSTEMS, as_markdown
from .saying import say


def list_models(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="as the table of docs/models/README.md")
    ] = False,
) -> None:
    """List the systems of pushforward.models, with what each is for."""
    if markdown:
        say(as_markdown())
        return
    names = [", ".join(system.modules) for system in SYSTEMS]
    width = max(map(len, names))
    for name, system in zip(names, SYSTEMS, strict=True):
        say(f"{name:<{width}}  {system.purpose}")
    say("\nfrom pushforward.models import NAME; each has a page or its text in docs/models/")
