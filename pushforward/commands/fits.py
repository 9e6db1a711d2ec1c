"""Fits in files: what ``infer --save`` wrote and other commands take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

from ..inference import Fit
from ..ppl.errors import DataError
from .saying import UsageError


def read_fit(path: Path) -> Fit:
    """The fit in a file.

    Errors:
        UsageError: there is none.
    """
    if not path.is_file():
        raise UsageError(f"there is no file {path}; infer --save {path} writes one")
    try:
        return Fit.load(path)
    except DataError:
        raise
    except Exception as error:  # of torch, zip and pickle: no common class
        raise UsageError(f"{path} does not hold a fit: infer --save writes one") from error


def by_name(paths: Sequence[Path]) -> dict[str, Fit]:
    """Fits by the names of their files, without extension where that tells them apart.

    Errors:
        UsageError: a file is named twice, or is no fit.
    """
    if len(set(paths)) < len(paths):
        raise UsageError("a fit is named twice")
    stems = [path.stem for path in paths]
    names = stems if len(set(stems)) == len(stems) else list(map(str, paths))
    return {name: read_fit(path) for name, path in zip(names, paths, strict=True)}


def chosen(fit: Fit, sites: str) -> dict[str, Tensor]:
    """The draws of the sites that are named with commas, or of all.

    Errors:
        UsageError: the fit has no draws.
        DataError: it has no such site.
    """
    if not fit.size:
        raise UsageError("the fit has no draws: its run was interrupted in warm-up")
    names = [name.strip() for name in sites.split(",") if name.strip()]
    return {name: fit[name] for name in names} if names else fit.draws
