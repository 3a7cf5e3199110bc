"""Tests of the log, publishing and ingest."""
