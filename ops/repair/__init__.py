"""What an operator mends, with the log beside it: positions outside the log, a damaged buffer."""
