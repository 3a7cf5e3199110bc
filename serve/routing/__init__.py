"""How a lane decides who answers: it keeps a promise, or makes the most of a budget."""
