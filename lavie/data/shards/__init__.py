"""Samples as they lie in files: the index of a shard, the table of a dataset, and single members read by offset.

Imports only the modules below lavie/data.
"""
