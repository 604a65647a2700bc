"""Which sample each position of a run shows, as pure functions of the configuration and the seed.

Imports media and shards.
"""
