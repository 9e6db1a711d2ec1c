"""Gradients of objectives: runs by replay, estimators of single choices, dependence of costs."""
