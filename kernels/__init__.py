"""Triton kernels, each beside a plain torch twin, and the choice between the two."""

from .dispatch import Backend, installed, uses_triton

__all__ = ["Backend", "installed", "uses_triton"]
