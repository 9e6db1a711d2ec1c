"""Lane code: a graph of one vector as C++ whose every number is a SIMD vector over chains."""
