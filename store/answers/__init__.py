"""What a teacher wrote, before it is a label: the layers around it, and the field of an object."""
