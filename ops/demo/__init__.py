"""`make demo`: the whole loop on one machine, measured from outside."""
