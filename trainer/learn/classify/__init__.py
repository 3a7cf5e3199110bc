"""How a student of `classify` is learned."""
