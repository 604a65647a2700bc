"""Captions of clips: who writes them, how they are cleaned, and for which clips they are wanted."""
