"""How a ranking student is fitted."""
