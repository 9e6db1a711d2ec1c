"""Layers and optimisers: plain torch, usable without the rest."""
