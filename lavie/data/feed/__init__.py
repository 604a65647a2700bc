"""The making of batches, which training reads, out of global positions of the run.

Imports media, shards, order, decoders and cache, and nothing that makes or checks datasets.
"""
