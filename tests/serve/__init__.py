"""Tests of the student in service."""
