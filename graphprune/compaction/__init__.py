"""Channels that are zero already really go: by ``torch.nn.utils.prune``, by a threshold, by a regularizer.

Words: docs/glossary.md.
"""
