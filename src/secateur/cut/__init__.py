"""The one home of a cut: what is cut together, the cut, what comes out, and how it is stored."""
