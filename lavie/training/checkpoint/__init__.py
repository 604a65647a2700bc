"""Saving and resuming a run: checkpoints whole on the disk, verified when read, loaded by any number of ranks."""
