"""Who may do what on the admin port: tokens with a role, kept as hashes."""
