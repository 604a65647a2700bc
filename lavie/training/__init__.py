"""The training run: engine, step, average of the weights, checkpoints, metrics, validation."""
