"""LaVie's trainer: cascaded latent diffusion from text to video (Wang et al., IJCV 2024)."""

__version__ = "0.1.0"
"""The version of the package, which setup.py reads from this line."""
