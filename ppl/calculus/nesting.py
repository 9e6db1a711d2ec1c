"""How deeply terms may be nested: the same as programs."""

from ..tensors.nesting import deep

__all__ = ["deep"]
