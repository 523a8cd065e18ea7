"""Searching: many ways to divide a cut among the groups of a network, and the ones that nothing beats."""

from __future__ import annotations

from secateur.searching.run import search
from secateur.searching.space import COSTS, Space
from secateur.searching.trials import Searched, Tried

__all__ = ["COSTS", "Searched", "Space", "Tried", "search"]
