"""What a batch of answers reads only once, and how it gets ahead."""
