"""The teacher, what it may cost, and the audits."""
