"""Slim models as files: ``bundle`` is one of safetensors and JSON.

Words: docs/glossary.md.
"""
