"""Fréchet video distance: the features, the protocols, and the distances between sets of clips."""
