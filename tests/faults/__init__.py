"""Faults that are injected from outside: what must hold after each is counted, event by event."""
