"""Latents and text features of a dataset, computed once, in files that training reads by entries. Imports shards."""
