"""Particle filters whose particles are vectors of lane code."""
