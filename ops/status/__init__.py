"""Where an installation stands: what is collected, and the shape in which it is shown."""
