"""VBench: its prompts and file names, the scores that need no foreign weights, and its totals."""
