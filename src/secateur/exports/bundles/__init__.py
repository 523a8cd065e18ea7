"""Deployment bundles: a folder with a network's file and all that runs it, tried without PyTorch before it is there."""

from __future__ import annotations

from secateur.exports.bundles.making import BundleCheck, bundle

__all__ = ["BundleCheck", "bundle"]
