"""What this product would have done with a log: the service's own parts on a simulated clock."""
