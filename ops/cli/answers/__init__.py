"""Commands on labels and prompts: how older answers are read."""
