"""What is kept, and the words for it: events, items, versions of the student and the moves between them."""
