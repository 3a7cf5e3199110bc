"""Log lines: how they look, and that one fault does not fill a disk with them."""
