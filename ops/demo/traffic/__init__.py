"""What the demo is asked and answered: its seeded traffic, its recorded teacher, its client."""
