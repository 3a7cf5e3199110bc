"""How the command line starts: with as few imports as a command needs."""
