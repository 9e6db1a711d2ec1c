"""Drivers: each runs a method on real work, from a program to a fit."""
