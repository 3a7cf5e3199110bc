"""What a person mends in the buffer: where a slot is read from, and items that are damaged."""
