"""Stages as files for others: exported folders with a model card, and released files in both directions."""
