"""The way from media files to batches, which README.md in this folder walks step by step.

What training reads ("online"): media, shards < order, decoders, cache < feed.
What makes and checks datasets ("offline"): prepare < check.
"""
