"""From media files to batches. README.md in this folder walks the whole way.

What training reads ("online"): media, shards < order, decoders, cache < feed.
What makes and checks datasets ("offline"): prepare < check.
"""
