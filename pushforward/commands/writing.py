"""Draws in files of other programs: CmdStan's CSV, netCDF, and ArviZ's JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..inference import Fit, Prediction
from ..inference.results.groups import as_arrays
from . import stan_csv
from .saying import UsageError

EXTENSIONS = {".csv": "csv", ".nc": "netcdf", ".netcdf": "netcdf", ".json": "json"}


def require_writable(out: Path | None, form: str) -> str:
    """The form in which draws are written to ``out``; raises before a run that nobody could keep.

    Errors:
        UsageError: no form, or no folder; or nothing is installed that writes netCDF.
    """
    if form and form not in EXTENSIONS.values():
        raise UsageError(f"--format is csv, netcdf or json, not {form!r}")
    if out is None:
        if form:
            raise UsageError("--format needs a file: name it by --out")
        return ""
    if not out.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no folder {out.parent}")
    found = form or EXTENSIONS.get(out.suffix.lower(), "")
    if not found:
        raise UsageError(f"--out {out}: say --format csv, netcdf or json, or end it so")
    if found == "netcdf" and not _has_netcdf():
        raise UsageError("netCDF needs a package that writes it: pip install h5netcdf")
    return found


def _has_netcdf() -> bool:
    from importlib.util import find_spec

    return any(find_spec(name) is not None for name in ("h5netcdf", "netCDF4"))


def write_draws(
    fit: Fit | Prediction,
    out: Path,
    form: str,
    model: str = "model",
    warmup: int = 1000,
    max_depth: int = 10,
) -> list[Path]:
    """Write the draws of a fit, or what was predicted; the paths of the files.

    ``model``, ``warmup`` and ``max_depth`` are what CSV says of the program and of NUTS.
    """
    form = require_writable(out, form)
    if form == "netcdf":
        fit.to_arviz().to_netcdf(str(out))
        return [out]
    if form == "json":
        out.write_text(json.dumps(_groups(fit)), encoding="utf-8")
        return [out]
    about: dict[str, Any] = {"model": model, "warmup": warmup, "max_depth": max_depth}
    if isinstance(fit, Prediction):
        return stan_csv.write(out, fit.sites, {}, about | {"method": "prediction", "seed": 0})
    about |= {"method": fit.method, "seed": fit.seed, "seconds": fit.seconds}
    return stan_csv.write(out, fit.draws, fit.stats, about, fit.state)


def _groups(fit: Fit | Prediction) -> dict[str, Any]:
    """Groups of lists by site, [chains, draws, *shape], as ArviZ's ``from_json`` reads them."""
    if isinstance(fit, Prediction):
        return {group: _lists(sites) for group, sites in fit.groups().items() if sites}
    groups = {
        "posterior": fit.draws,
        "sample_stats": fit.stats,
        "log_likelihood": fit.log_likelihood,
        "observed_data": fit.observed,
    }
    found: dict[str, Any] = {group: _lists(sites) for group, sites in groups.items() if sites}
    return found | {"posterior_attrs": {"method": fit.method, "seed": fit.seed}}


def _lists(sites: Mapping[str, Tensor]) -> dict[str, Any]:
    return {name: x.tolist() for name, x in as_arrays(sites).items()}
