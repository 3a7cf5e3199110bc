"""The student that ranks: a frozen bi-encoder with a small head."""
