"""Following a tensor through all that is computed from it, by the storages that numbers lie in."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Following(TorchDispatchMode):
    """Notes which tensors hold numbers that depend on some, and shows ``see`` every such operation.

    Tensors that depend are kept alive, so that no other gets their storage.
    """

    def __init__(self, sources: Iterable[Tensor]) -> None:
        super().__init__()
        self.kept = list(sources)
        self.storages = {_storage(x) for x in self.kept}

    def depends(self, x: Tensor) -> bool:
        """Whether a tensor holds numbers that depend on a source."""
        return _storage(x) in self.storages

    def see(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> bool:
        """Look at an operation on what depends on a source; whether its results do too."""
        raise NotImplementedError

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        depends = any(map(self.depends, tensors((args, kwargs))))
        results = func(*args, **kwargs)
        if depends and self.see(func, args, kwargs, results):
            written = tensors(args[:1]) if func._schema.is_mutable else ()
            for x in (*tensors(results), *written):
                self.note(x)
        return results

    def note(self, x: Tensor) -> None:
        """A tensor holds numbers that depend on a source."""
        self.kept.append(x)
        self.storages.add(_storage(x))


def tensors(tree: Any) -> Iterator[Tensor]:
    """The tensors in a tree."""
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _storage(x: Tensor) -> int:
    try:
        return int(x.untyped_storage()._cdata)
    except (RuntimeError, NotImplementedError):  # of a wrapper, which has none
        return 0


class Reading(Following):
    """Notes whether Python reads numbers that depend on some tensors: branches, counts, indexes.

    ``found``: whether it did.  Checks of data and of supports, which end in errors only, count not.
    """

    def __init__(self, sources: Iterable[Tensor]) -> None:
        super().__init__(sources)
        self.found = False
        self._calls = _Calls(self)

    def __enter__(self) -> Any:
        self._calls.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> Any:
        super().__exit__(*error)
        return self._calls.__exit__(*error)

    def see(self, func: Any, args: Any, kwargs: dict[str, Any], results: Any) -> bool:
        tags = func.tags
        counts = torch.Tag.dynamic_output_shape in tags and (
            func.overloadpacket.__name__ != "index" or _by_mask(args[1])
        )
        if (counts or torch.Tag.data_dependent_output in tags) and not _checks():
            self.found = True
        return True


class _Calls(TorchFunctionMode):
    """Sees what reaches the numbers of a tensor without an operation of torch."""

    def __init__(self, reading: Reading) -> None:
        super().__init__()
        self.reading = reading

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__name__", "") in _READERS and self.reading.depends(args[0]):
            self.reading.found |= not _checks()
        return func(*args, **(kwargs or {}))


_READERS = ("tolist", "numpy", "__array__", "__dlpack__")
_BETWEEN = ("torch.", "contextlib", "pushforward.ppl.tensors.")
_CHECKS = (
    *("pushforward.ppl.distributions.validate", "pushforward.ppl.distributions.masks"),
    "pushforward.ppl.types.supports",
)


def _by_mask(places: Any) -> bool:
    return any(x.dtype in (torch.bool, torch.uint8) for x in tensors(places))


def _checks() -> bool:
    """Whether it is a check that reads: the innermost code outside torch and this room."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = str(frame.f_globals.get("__name__", ""))
        if not name.startswith(_BETWEEN):
            return name.startswith(_CHECKS)
        frame = frame.f_back
    return False
