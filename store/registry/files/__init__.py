"""Files of a registry on disk: where they lie, that they outlive a power cut, and that equal ones are kept once."""
