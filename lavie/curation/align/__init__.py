"""How well captions fit their clips."""
