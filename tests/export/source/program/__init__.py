"""A user's package: networks of the sort that people write, spread over several files."""
