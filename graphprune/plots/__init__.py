"""Pictures of plans and measurements: functions that take data and return a figure of matplotlib.

In no order: ``layer_bars`` (widths, sparsity and time of each layer), ``weight_maps``, ``sensitivity_curves`` and
``trade_offs``; ``figures`` is what they share. Needs ``pip install 'graphprune[plot]'``.

Words: docs/glossary.md.
"""
