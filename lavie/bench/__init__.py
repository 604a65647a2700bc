"""Benchmarks of whole paths: the loader, the index and the cascade. Single kernels have theirs in kernels/bench."""
