"""Dead letters: what people see of them, and what they decide about them."""
