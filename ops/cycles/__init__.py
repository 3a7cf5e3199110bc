"""Cycles as operators see them: one in hand, and waiting for one."""
