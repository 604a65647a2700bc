"""The ways to decode a clip, and the choice among them. Imports media and shards."""
