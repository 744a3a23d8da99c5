"""A model run on data: batches, statistics of activations, gradients.

Words: docs/glossary.md.
"""
