"""Sparsity in training: penalties that push weights to zero, masks that hold them there."""
