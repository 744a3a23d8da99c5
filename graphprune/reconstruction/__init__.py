"""Make up for removed channels in what is left, with calibration data or without.

Words: docs/glossary.md.
"""
