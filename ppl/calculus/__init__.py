"""The calculus: the language on paper, with a parser, a type checker and a meaning as programs."""
