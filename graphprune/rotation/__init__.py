"""Residual streams turned to their principal components, with equal outputs.

Read in this order: :mod:`graphprune.rotation.streams` finds which tensors have to turn together,
:mod:`graphprune.rotation.turned_weights` turns the weights that write and read them, and
:mod:`graphprune.rotation.rotating` is what users call.

Words: docs/glossary.md.
"""
