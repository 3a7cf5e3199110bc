"""Tests of what ranks."""
