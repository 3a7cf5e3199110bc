"""Commands on lanes, and how they show what they found."""
