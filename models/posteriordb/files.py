"""The files of data/: one JSON object for each posterior, with data and reference figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FOLDER = Path(__file__).parent / "data"
Built = tuple[Any, tuple[Any, ...]]
"""A conditioned program and its arguments."""


def content(name: str) -> dict[str, Any]:
    """All that the file of a posterior says: its model in words, source, licence, figures."""
    found: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return found


def double(x: Any) -> Tensor:
    """Numbers as a tensor of float64."""
    return torch.tensor(x, dtype=torch.float64)


def data(name: str) -> dict[str, Any]:
    """Data under their original names: lists as tensors of float64, single numbers as they are."""
    given = content(name)["data"]
    return {key: double(x) if isinstance(x, list) else x for key, x in given.items()}
