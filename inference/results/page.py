"""One page of HTML of a fit: what was asked, what was found, and whether to believe it."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path
from typing import Any

from torch import Tensor

from ...ppl.interpretations.abstract_run import UNTYPED, program_type
from ...ppl.language.program import Callback, program_name
from ...ppl.pages import heading, listed, page, paragraph, picture, table, text
from .figures import COLUMNS, figures, numbers
from .fit import Fit
from .pictures import as_address, as_png, chains_and_ranks

ROWS, PICTURES = 500, 12  # of the table, and of numbers whose chains are shown
PACKAGES = ("pushforward", "torch", "pyro-ppl", "numpy", "arviz")


def write_page(
    fit: Fit, path: str | Path, p: Callback | None = None, *args: Any, title: str = "A fit"
) -> Path:
    """Write one page of HTML that needs nothing else; its path.

    It holds figures of the draws with advice, pictures of chains and their ranks, the data, seed
    and versions, and if the program ``p(*args)`` is given its text and its type.
    """
    found = Path(path)
    found.write_text(page(title, _parts(fit, p, args)), encoding="utf-8")
    return found


def _parts(fit: Fit, p: Callback | None, args: tuple[Any, ...]) -> Iterator[str]:
    yield text(fit)
    yield heading("Should I believe it?")
    found = fit.warnings()
    yield listed(found) or paragraph("Nothing speaks against it: see the pictures below.")
    if fit.log_likelihood:
        yield paragraph("Each observation, left out:") + fit.loo()._repr_html_()
    if p is not None:
        yield heading(f"The program {program_name(p)}")
        with suppress(OSError, TypeError):  # no text is known of what was typed in a console
            yield text(inspect.getsource(_as_written(p)))
        with suppress(*UNTYPED):
            yield program_type(p, *args)._repr_html_()
    yield heading("Figures")
    rows = [(name, *map(_short, figures(x))) for name, x in islice(numbers(fit.draws), ROWS)]
    yield table(("", *COLUMNS), rows)
    if shown := dict(islice(numbers({n: fit.draws[n] for n in fit.latents}), PICTURES)):
        yield heading("Chains")
        yield picture("chains and their ranks", as_address(as_png(chains_and_ranks(shown))))
    if fit.observed:
        yield heading("Data")
        about = [(name, list(x.shape), *_ends(x)) for name, x in fit.observed.items()]
        yield table(("site", "shape", "least", "mean", "greatest"), about)
    yield heading("How it was made")
    yield listed([*fit.report, f"seed {fit.seed}, {fit.seconds:.1f} s", ", ".join(_versions())])


def _as_written(p: Callback) -> Callback:
    """The function that a program was made of; of a conditioned one, the program's without data."""
    while (base := getattr(p, "base", None)) is not None:
        p = base
    found: Callback = inspect.unwrap(p)
    return found


def _short(x: float) -> str:
    return f"{x:.4g}"


def _ends(x: Tensor) -> tuple[str, ...]:
    """The least entry, the mean and the greatest, if there are any."""
    if x.numel() == 0:
        return ("", "", "")
    values = x.detach().double()
    return tuple(_short(float(each)) for each in (values.min(), values.mean(), values.max()))


def _versions() -> Iterator[str]:
    yield f"Python {platform.python_version()}"
    for name in PACKAGES:
        with suppress(PackageNotFoundError):  # run from its folder
            yield f"{name} {version(name)}"
