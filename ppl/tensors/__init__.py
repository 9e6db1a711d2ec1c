"""Tensors: abstract, captured, hidden, keyed; what the language needs beneath types."""
