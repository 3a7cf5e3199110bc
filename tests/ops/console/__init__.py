"""Tests of the console: who may see and do what, that pages say what the commands say, and real browsers."""
