"""How older answers are read today, and what people decide about it."""
