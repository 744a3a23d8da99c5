"""When to prune how much: schedules, and what follows them in rounds or amid training."""
