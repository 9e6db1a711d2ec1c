"""Arguments of programs from frames, by the names of parameters."""

from __future__ import annotations

from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
import pandas
import pytest
import torch
import xarray
from torch import Tensor

from pushforward import assess, condition, dist, plate, predict, program, sample
from pushforward.errors import DataError
from pushforward.inference import Fit, columns
from pushforward.inference.runs.frames import as_pandas


@program
def line(x: Tensor, g: Tensor, groups: int = 2) -> Tensor:
    slope = sample("slope", dist.Normal(0.0, 1.0))
    with plate("g", groups):
        level = sample("level", dist.Normal(0.0, 1.0))
    mean = level[g] + slope * x
    with plate("row", len(x)):
        sample("y", dist.Normal(mean, 1.0))
    return mean


TABLE = {"g": ["v", "u", "v"], "x": [1.0, 2.0, 3.0], "other": [0, 0, 0]}


def frames() -> list[Any]:
    """One table as each kind of frame."""
    table = pandas.DataFrame(TABLE)
    return [TABLE, table, table.set_index("other"), table.iloc[:, ::-1], nw.from_native(table)]


@pytest.mark.parametrize("frame", frames(), ids=["mapping", "pandas", "index", "order", "narwhals"])
def test_arguments_are_columns_by_name(frame: Any) -> None:
    found = columns(line, frame)
    x, g, groups = found.arguments
    assert x.tolist() == [1.0, 2.0, 3.0] and g.tolist() == [1, 0, 1] and groups == 2
    assert found.coords == {"g": ["u", "v"]}
    conditioned = condition(line, {"y": [0.0, 0.0, 0.0]})
    assert columns(conditioned, frame, groups=7).arguments[2] == 7


def test_predictions_number_categories_as_before() -> None:
    """The value is level + slope x, whichever categories the new frame holds."""
    known = columns(line, TABLE)
    new = known.anew({"x": [1.0, 5.0], "g": ["v", "v"]})
    assert new.arguments[1].tolist() == [1, 1]
    draws = {"slope": torch.tensor([[2.0]]), "level": torch.tensor([[[10.0, 20.0]]])}
    value = predict(Fit("by hand", draws, latents=("slope", "level")), line, *new.arguments).value
    assert value.flatten().tolist() == [22.0, 30.0]
    with pytest.raises(DataError, match=r"column 'g' has new categories: \['w'\]"):
        known.anew({"x": [1.0], "g": ["w"]})


def test_categories_keep_their_order() -> None:
    ordered = pandas.Categorical(["v", "u", "v"], ["v", "u", "w"], ordered=True)
    for frame in (
        {**TABLE, "g": ordered},
        nw.from_native(pandas.DataFrame({**TABLE, "g": ordered})),
    ):
        found = columns(line, frame)
        assert found.arguments[1].tolist() == [0, 1, 0]
        assert found.coords["g"] == ["v", "u", "w"]


def test_missing_values() -> None:
    for x in ([1.0, np.nan, 3.0], np.ma.masked_array([1, 2, 3], [0, 1, 0])):
        frame = {**TABLE, "x": x}
        with pytest.raises(DataError, match="missing values: 'x' in row 1"):
            columns(line, frame)
        dropped = columns(line, frame, missing="drop")
        assert dropped.dropped == (1,) and dropped.arguments[0].tolist() == [1.0, 3.0]
        assert dropped.arguments[1].tolist() == [0, 0]
        kept = columns(line, frame, missing="keep").arguments[0]
        assert kept.isnan().tolist() == [False, True, False]
    with pytest.raises(DataError, match="a category cannot be NaN"):
        columns(line, {**TABLE, "g": ["u", None, "v"]}, missing="keep")
    with pytest.raises(ValueError, match="missing is one of"):
        columns(line, TABLE, missing="guess")  # type: ignore[arg-type]


def test_variables_of_xarray_keep_their_shape() -> None:
    @program
    def cells(heat: Tensor, area: Tensor) -> Tensor:
        return heat.sum(1) * area

    heat = np.arange(6.0).reshape(2, 3)
    data = xarray.Dataset(
        {"heat": (("site", "time"), heat), "area": ("site", [1.0, 2.0])},
        coords={"site": ["p", "q"], "time": [1, 2, 3]},
    )
    found = columns(cells, data)
    assert found.arguments[0].shape == (2, 3)
    assert found.coords == {"site": ["p", "q"], "time": [1, 2, 3]}
    assert found.dims == {"heat": ["site", "time"], "area": ["site"]}
    heat[1, 2] = np.nan
    with pytest.raises(DataError, match=r"'heat' in entry \[1, 2\]"):
        columns(cells, data)
    assert int(columns(cells, data, missing="keep").arguments[0].isnan().sum()) == 1
    assert as_pandas(data)["area"].tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("p", "frame", "others", "match"),
    [
        (line, {"x": [1.0]}, {}, r"line takes \['g'\], of which the frame has no column"),
        (line, TABLE, {"z": 1}, r"line takes no \['z'\]"),
        (lambda *x: x, TABLE, {}, "not told by name"),
        (line, {**TABLE, "x": pandas.date_range("2020", periods=3)}, {}, "neither numbers nor"),
        (line, [1, 2], {}, "no frame of columns"),
    ],
)
def test_what_is_refused(p: Any, frame: Any, others: Any, match: str) -> None:
    with pytest.raises(DataError, match=match):
        columns(p, frame, **others)


@program
def unseen() -> None:
    with plate("row", 3):
        sample("y", dist.Normal(0.0, 1.0))


@pytest.mark.parametrize(
    "data", [[1, 2, 3], [1.0, 2.0, 3.0], np.float32([1, 2, 3]), [True, False, True]]
)
def test_masked_entries_are_missing(data: Any) -> None:
    """Of numpy's masked arrays: they were observations of what lies under the mask."""
    masked = np.ma.masked_array(data, [False, True, True])
    torch.set_default_dtype(torch.float32 if masked.dtype == np.float32 else torch.float64)
    try:
        rows = [
            lambda: assess(condition(unseen, {"y": masked}), {}),
            lambda: assess(condition(unseen, {"y": torch.tensor([0.0, torch.nan, torch.nan])}), {}),
        ]
        for run in rows:
            with pytest.raises(DataError, match=r"hold 2 NaN, in rows 1, 2 \(at site 'y'"):
                run()
        whole = np.ma.masked_array(data, [False] * 3)
        assert float(assess(condition(unseen, {"y": whole}), {})[0]) < 0
    finally:
        torch.set_default_dtype(torch.float32)
