"""One request's whole life: its event in the log, its item in the buffer, and the versions that learned from it."""
