"""What is learned: features, head, fine-tuning."""
