"""Image datasets as stores of latent point clouds (ARC), and point transformers trained on them."""

__version__ = "0.1.0"
