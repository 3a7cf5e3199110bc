"""What each task means by a question and by agreement."""
