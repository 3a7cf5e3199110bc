"""Students that answer elsewhere: language models on servers of their own."""
