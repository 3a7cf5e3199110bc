"""Benchmarks: they measure, and never gate."""
