"""Remove channels that are zero already, after ``torch.nn.utils.prune``, a threshold or a regularizer.

In reading order: ``compacting`` (the functions), ``masked_copy`` (a copy in which masks are zeros), ``search`` (which
channels can go) with ``variants`` (random inputs and weights, which show what is constant), ``readers`` (what reads
each channel), ``folding`` and ``merging`` (where the constants of zero channels go); ``record`` and ``report`` (the
result).

Words: docs/glossary.md.
"""
