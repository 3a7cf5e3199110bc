"""What `understudy doctor` looks at: small checks, each with what it found and what mends it."""
