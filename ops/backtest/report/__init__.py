"""What a backtest found, to look at: the figure and the page."""
