"""Distributions: data for them, their densities, supports, pytrees and strategies."""
