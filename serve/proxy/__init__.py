"""A proxy in front of a teacher that changes nothing and tells each call on, so that a log exists."""
