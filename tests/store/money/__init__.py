"""Tests of the lanes' books."""
