"""The check of a dataset, `lavie data check`: what keeps samples from training, and what is worth a look.

Imports media, shards, decoders and prepare; nothing that trains imports it.
"""
