"""Zeros that stay in place: masks of single weights, on ``torch.nn.utils.prune``.

In reading order: ``masking`` (``sparsify``), with ``selection`` (which weights) and ``methods`` (pruning methods that
torch lacks); ``permanent``; ``counting`` (how many zeros there are).

Words: docs/glossary.md.
"""
