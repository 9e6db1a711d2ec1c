"""NUTS in machine code: every chain a state machine, one gradient of all of them at a time."""
