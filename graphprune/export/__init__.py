"""Slim models as files: ``bundle`` is one of safetensors and JSON, ``loader`` one of Python and safetensors.

Words: docs/glossary.md.
"""
