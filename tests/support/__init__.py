"""What tests of several rooms share: random terms, models, faults, comparisons."""
