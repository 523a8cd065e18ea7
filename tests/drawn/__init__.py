"""Random networks that carry their own masked reference, written in plain PyTorch without Secateur's graph.

A network is a stem, two to eight constructions drawn from a seed, and heads. Every construction knows twice what it
computes: ``forward`` is the user's code, ``masked`` is what is left of it when channels go. The second takes the
dense values with the channels that are left (a bool vector) and returns the same of its result. What is left of a
layer's output is read from the plan, for the construction's own parameters; everything else follows by hand:

- where zeros pass through (convolutions, sums, attention over heads …), the module's own code runs with every removed
  entry of its parameters and buffers set to zero;
- where they do not (means, norms, softmax, extrema over channels), it runs on the kept channels, picked out;
- after every construction removed channels are zeroed, which is what f(0) ≠ 0 calls for.
"""

from drawn import attention, branches, layers, mixing, moves, norms, positions
from drawn.base import KINDS, Draw, Kept, Skip, Step
from drawn.network import Network, draw

__all__ = [
    "KINDS",
    "Draw",
    "Kept",
    "Network",
    "Skip",
    "Step",
    "attention",
    "branches",
    "draw",
    "layers",
    "mixing",
    "moves",
    "norms",
    "positions",
]
