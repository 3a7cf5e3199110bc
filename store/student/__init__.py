"""The student as trainer and gateway both run it."""
