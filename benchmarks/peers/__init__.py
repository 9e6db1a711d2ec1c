"""The samplers that ``benchmarks/mcmc.py`` compares, each in its own process."""
