"""Inference algorithms, each a program whose randomness goes through the effects."""
