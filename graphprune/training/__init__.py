"""Train a pruned network again, and prune amid training or in rounds.

Words: docs/glossary.md.
"""
