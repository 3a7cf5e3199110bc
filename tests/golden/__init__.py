"""Files written by earlier releases, which today's code must read."""
