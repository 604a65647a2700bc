"""Making datasets: media and captions into shards with indices.

Imports media and shards; training imports none of it.
"""
