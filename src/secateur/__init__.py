"""Secateur makes trained PyTorch networks smaller and faster by pruning."""

__version__ = "0.1.0"
