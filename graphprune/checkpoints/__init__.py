"""Save amid training, atomically, and go on from there after a kill."""
