"""The checks, a file each; ``semantics.check`` names them for users."""
