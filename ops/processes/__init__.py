"""The long-lived processes, and what keeps them alive."""
