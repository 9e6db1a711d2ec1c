"""What a run on real work needs: seeds, devices, progress, checkpoints, starting points."""
