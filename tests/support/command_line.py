"""The command line called within this process."""

from __future__ import annotations

import contextlib
import io
import sys
from typing import NamedTuple

import torch

from pushforward.__main__ import main


class Called(NamedTuple):
    """The exit status, and what was printed."""

    code: int
    out: str
    err: str


def called(*words: object) -> Called:
    """``pushforward`` with these words; path, threads and precision are left as they were."""
    path, threads, dtype = list(sys.path), torch.get_num_threads(), torch.get_default_dtype()
    code: object = None
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(word) for word in words])
    except SystemExit as stop:
        code = stop.code
    finally:
        sys.path[:] = path
        torch.set_num_threads(threads)
        assert torch.get_default_dtype() == dtype
    assert isinstance(code, int)
    return Called(code, out.getvalue(), err.getvalue())
