"""One request in the gateway: whether it is let in, what answers it, and what it is told when nothing does."""
