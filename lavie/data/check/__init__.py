"""What `lavie data check` finds in a dataset.

Imports media, shards, decoders and prepare; training imports none of it.
"""
