"""What lies in the state directory: whether its disk takes writes, and who may read it."""
