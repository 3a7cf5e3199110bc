"""What is learned: features, heads, fine-tuning."""
