"""Scores of generated videos: what a network draws, judged by its pixels."""
