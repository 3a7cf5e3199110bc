"""What the demo measures, and how it is summed up."""
