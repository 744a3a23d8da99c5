"""What a model is and takes: sizes, sparsity, multiply-adds, memory, time, energy and scores, as data and as tables.

In reading order: ``measuring`` (the function), ``records`` (what it returns) with ``quantities`` (their tables);
``layer_sizes`` and ``stored_bytes`` (what is counted), ``activation_memory``, ``latencies`` with ``batch_resizing``,
``layer_times`` and ``energy`` (what is run), ``state`` (what is restored afterwards).

Words: docs/glossary.md.
"""
