"""Noise schedule, prediction targets and losses: functions from tensors to tensors, without a network."""
