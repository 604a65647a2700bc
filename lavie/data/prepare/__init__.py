"""The making of datasets, before training: media and captions become shards with indices.

Imports media and shards; nothing that trains imports it.
"""
