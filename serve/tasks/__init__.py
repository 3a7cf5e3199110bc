"""Each task as its clients see it."""
