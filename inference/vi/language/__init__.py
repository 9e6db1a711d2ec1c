"""What objectives are written in: traces of programs, expectations, marginals."""
