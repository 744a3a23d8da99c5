"""What makes a unit important: one function ``(group, context) -> scores [units]`` for each criterion."""
