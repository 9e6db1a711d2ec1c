"""What optimisers share: steps with or without a closure, and states that go on as they were."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.optim import Optimizer


class Resuming(Optimizer):
    """An optimiser whose copies, pickles and loaded states go on exactly where it was.

    torch keeps of an optimiser its groups and its state alone, and casts a loaded state to the
    dtype of the parameters.
    """

    carried: ClassVar[tuple[str, ...]] = ()  # attributes that copies and pickles take along

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), **{name: getattr(self, name) for name in self.carried}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a state, another program's too; settings that it lacks are the defaults."""
        super().load_state_dict(state_dict)
        keys = chain.from_iterable(group["params"] for group in state_dict["param_groups"])
        params = chain.from_iterable(group["params"] for group in self.param_groups)
        for key, p in zip(keys, params, strict=True):
            for name, saved in state_dict["state"].get(key, {}).items():
                if name in self.state[p]:
                    self.state[p][name] = self._loaded(saved, p)

    def _loaded(self, saved: Any, p: Tensor) -> Any:
        """A part of a state, no narrower than it was saved."""
        if isinstance(saved, tuple):
            return tuple(self._loaded(each, p) for each in saved)
        if not isinstance(saved, Tensor):
            return saved
        if not saved.is_floating_point():
            return saved.to(p.device, copy=True)
        return saved.to(p.device, torch.promote_types(saved.dtype, p.dtype), copy=True)


class Stepping(Resuming, ABC):
    """An optimiser that says how its parameters move once their gradients are there."""

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Make a step; the closure, if there is one, computes the loss and its gradients again."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._move_all()
        return loss

    @abstractmethod
    def _move_all(self) -> None: ...
