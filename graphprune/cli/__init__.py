"""The command line.

In reading order: ``main`` (the commands), ``arguments`` (those of a plan follow from its options), ``models`` (by
name), ``tables`` and ``json_output`` (results).

Words: docs/glossary.md.
"""
