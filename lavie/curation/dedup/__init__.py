"""Clips that show what a better clip shows: duplicates by their hashes, similar ones by their embeddings."""
