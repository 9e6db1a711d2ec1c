"""The language: effects, the handlers that meet them, programs and their combinators."""
