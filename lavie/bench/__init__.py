"""Benchmarks of whole paths: the loader, the index and the cascade. Those of single kernels are in kernels/bench."""
