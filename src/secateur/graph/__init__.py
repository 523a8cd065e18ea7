"""From a network to what must be cut together: trace, operators and their rules, labels, groups."""
