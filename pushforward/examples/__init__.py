"""Examples that the demo runs: a real posterior with its reference, and tiny models for checks."""
