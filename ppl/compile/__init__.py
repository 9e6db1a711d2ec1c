"""Compiled code from captured graphs and from loops."""
