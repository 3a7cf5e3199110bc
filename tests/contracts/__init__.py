"""Contracts: one suite per protocol, run by the fake and by the real thing."""
