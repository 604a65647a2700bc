"""From global positions to batches: what training reads.

Imports media, shards, order, decoders and cache, and nothing that makes or checks datasets.
"""
