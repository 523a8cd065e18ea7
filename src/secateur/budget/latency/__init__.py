"""A latency as a target: a table of the network's own layers, a knapsack, and a measured correction."""

from secateur.budget.latency.pick import Rules
from secateur.budget.latency.target import LatencyOutcome, in_words, setting_of, to_latency

__all__ = ["LatencyOutcome", "Rules", "in_words", "setting_of", "to_latency"]
