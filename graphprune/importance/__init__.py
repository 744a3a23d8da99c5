"""One score for every unit."""
