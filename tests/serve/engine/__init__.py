"""Language models on servers of their own."""
