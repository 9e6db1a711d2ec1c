"""The same functions in Triton, for GPUs; nothing here is imported unless it is used."""
