"""Commands that find what is wrong, and mend it."""
