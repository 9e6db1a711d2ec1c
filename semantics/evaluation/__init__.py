"""Measures, and what evaluates programs to them: enumeration, lanes, quadrature."""
