"""Noise schedule, prediction targets and losses. Tensors in, tensors out."""
