"""The log of a process, as its modules write to it."""
