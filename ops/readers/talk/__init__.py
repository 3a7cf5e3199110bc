"""Logs of `chat`: conversations with what the assistant answered."""
