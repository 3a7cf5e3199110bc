"""The processes, each from its start to its end: a file for each, so that none imports what another needs."""
