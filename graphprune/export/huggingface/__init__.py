"""Slim Transformers models as folders that stock Transformers loads.

Words: docs/glossary.md.
"""
