"""Tests, contracts, faults and benchmarks."""
