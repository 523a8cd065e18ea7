"""Least squares of single layers: what choosing channels by reconstruction and repairing a cut both solve."""
