"""How deeply terms may be nested: the same as programs."""

from ..nesting import deep

__all__ = ["deep"]
