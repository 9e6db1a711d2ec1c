"""Data files: JSON of this library, JSON of Stan, and dumps of R, as arguments and sites."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..ppl.errors import BranchError, DataError
from ..ppl.interpretations.abstract_run import abstract_run
from ..ppl.language.handlers import split_name
from . import rdump
from .saying import UsageError, nearest

JSON, DUMP = (".json",), (".r", ".rdump", ".dump")
WORDS = {"NaN": math.nan, "nan": math.nan}  # numbers that JSON lacks, as Stan writes them
WORDS |= {f"{s}{word}": float(f"{s}inf") for s in ("", "+") for word in ("Inf", "inf", "Infinity")}
WORDS |= {f"-{word}": -math.inf for word in ("Inf", "inf", "Infinity")}


class Given(NamedTuple):
    """What a file holds: arguments and data, or names that may be either (``flat``)."""

    args: dict[str, Any]
    data: dict[str, Any]
    flat: dict[str, Any]


def read_data(path: Path | None) -> Given:
    """What a data file holds, by its extension, or by its content if that says nothing.

    Errors:
        UsageError: it cannot be read, or is none of the forms.
    """
    if path is None:
        return Given({}, {}, {})
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text: give JSON, or a dump of R") from error
    kind = path.suffix.lower()
    if kind in DUMP or (kind not in JSON and rdump.looks_like(text)):
        return Given({}, {}, rdump.read(text, str(path)))
    content = _json(path, text)
    parts = {name for name in ("args", "data") if isinstance(content.get(name), dict)}
    if not parts:
        return Given({}, {}, content)
    if others := content.keys() - parts:
        raise UsageError(f'{path}: {sorted(others)} beside "args" and "data"')
    return Given(content.get("args", {}), content.get("data", {}), {})


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UsageError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must hold a JSON object, not a {type(content).__name__}")
    return content


def as_argument(name: str, value: Any) -> Any:
    """A value of a file as an argument: lists and floats become tensors, the rest stays as it is.

    A list that holds a float has the default dtype; one of integers keeps them (they may be
    indices).
    """
    if isinstance(value, dict):
        return {key: as_argument(f"{name}.{key}", item) for key, item in value.items()}
    return as_tensor(name, value) if isinstance(value, list | float) else value


def as_tensor(name: str, value: Any, dtype: torch.dtype | None = None) -> Tensor:
    """Numbers as a tensor: exact where they are integers, else of ``dtype`` or the default."""
    value = _spelled(value)
    try:
        exact = torch.tensor(value, dtype=torch.float64 if _has_float(value) else None)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(
            f"{name} must be a number or a rectangular list of numbers: {error}"
        ) from error
    if exact.is_floating_point():
        wanted = dtype if dtype is not None and dtype.is_floating_point else None
        return exact.to(wanted or torch.get_default_dtype())
    return exact.to(dtype) if dtype is not None else exact


def _spelled(value: Any) -> Any:
    """With numbers in place of the words for those that JSON lacks."""
    if isinstance(value, list):
        return [_spelled(item) for item in value]
    return WORDS.get(value, value) if isinstance(value, str) else value


def _has_float(value: Any) -> bool:
    if isinstance(value, list):
        return not value or any(map(_has_float, value))
    return isinstance(value, float)


def as_data(
    p: Any, args: tuple[Any, ...], data: dict[str, Any], arguments: Sequence[str] | None = None
) -> dict[str, Tensor]:
    """Data by site, in the dtype of what the site samples.

    ``arguments``: what a name may be meant for besides, in a file that does not part them.

    Errors:
        UsageError: there is no such site.
    """
    dtypes: dict[str, torch.dtype] = {}
    try:
        run = abstract_run(p, *args)[0] if data else None
    except (BranchError, DataError):  # told where the program is run
        run = None
    if run is not None:
        dtypes = run.dtypes
        known = dict.fromkeys(split_name(name)[0] for name in run.sites)
        for name in data:
            if name not in known and name not in run.sites:
                what = f"data for a site that does not exist: '{name}'"
                if arguments is not None:
                    what = f"'{name}' is no argument and no site of the program"
                raise UsageError(f"{what}; {nearest(name, [*(arguments or ()), *known])}")
    return {
        name: as_tensor(name, value, dtypes.get(name, dtypes.get(f"{name}[0]")))
        for name, value in data.items()
    }
