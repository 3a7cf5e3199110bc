"""How long to wait before something is tried again."""
