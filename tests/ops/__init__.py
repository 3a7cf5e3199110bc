"""Tests of operations: settings, processes, the CLI, the demo."""
