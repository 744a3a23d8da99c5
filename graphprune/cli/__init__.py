"""The command line.

Words: docs/glossary.md.
"""
