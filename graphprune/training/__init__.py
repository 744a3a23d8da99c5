"""Train a pruned network again: the loop, what is learned from, and from whom."""
