"""Files that people already have, as rows: one reader for import and backtest."""
