"""The student of `chat`: a small decoder, its adapter, and when to trust it."""
