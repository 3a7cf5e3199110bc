"""Tests of `trainer.launch`."""
