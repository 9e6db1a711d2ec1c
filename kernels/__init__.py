"""Triton kernels, each beside a plain torch twin."""
