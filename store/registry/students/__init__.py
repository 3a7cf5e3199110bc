"""What a version says of its student, in a record of its task."""
