"""The meanings of a program: sampled, scored, abstract, as a graph, as factors, as a vector."""
