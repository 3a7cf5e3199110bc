"""Who may do what: keys."""
