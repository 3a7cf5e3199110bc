"""Traces of programs that ask language models: which of their spans are calls of a model, and what was said."""
