"""Tests of the chatting student."""
