"""Independent tasks, done by the workers of an executor; checkpoints of what was done."""
