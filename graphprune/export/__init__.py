"""Slim models as files.

Words: docs/glossary.md.
"""
