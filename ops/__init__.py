"""Settings, wiring, process lifecycle, the CLI, the demo: it imports everything and nothing imports it."""
