"""How a decoder's top layers are trained."""
