"""Zeros that stay in place: masks of single weights, on ``torch.nn.utils.prune``.

In reading order: ``masking`` (``sparsify``), with ``selection`` (which weights) and ``methods`` (pruning methods that
torch lacks), ``amounts``, ``ranking`` and ``attention``; ``permanent``; ``counting`` (how many zeros there are);
``sparse_files`` (saved small), with ``sparse_tensors`` and ``gap_coding``; ``semi_structured`` (2:4 on
tensor cores).

Words: docs/glossary.md.
"""
