"""What each page shows, worked out before it is drawn."""
