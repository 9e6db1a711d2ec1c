"""Parameters of a law, which may be numbers, as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from ...tensors.hidden import is_known


def together(*given: Tensor | float) -> tuple[Tensor, ...]:
    """Tensors of one shape; numbers take the precision of the first tensor among them.

    Tensors keep their own, so that mixed precisions are told of where a law is used.
    """
    own = [x.dtype for x in given if isinstance(x, Tensor) and x.is_floating_point()]
    dtype = own[0] if own else torch.get_default_dtype()
    made = [x if isinstance(x, Tensor) else torch.tensor(x, dtype=dtype) for x in given]
    return tuple(torch.broadcast_tensors(*made))


def refuted(condition: Tensor) -> bool:
    """Whether some truth value is known to be false, where laws look at their parameters.

    Of lanes and abstract values none is known; and while a density is evaluated nobody looks, since
    it is asked for at any parameters.
    """
    looks = torch.distributions.Distribution._validate_args
    return bool(looks) and is_known(condition) and not bool(condition.all())
