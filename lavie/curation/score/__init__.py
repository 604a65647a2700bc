"""Scores of clips, each a stage of its own: motion, hash and overlay, text, CLIP and aesthetics, and plug-ins."""
