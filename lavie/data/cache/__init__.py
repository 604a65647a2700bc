"""Latents and text features computed once, in files that training reads entry by entry. Imports shards."""
