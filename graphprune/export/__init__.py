"""Slim models as files."""
