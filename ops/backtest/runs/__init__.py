"""The runs of a backtest in processes of their own."""
