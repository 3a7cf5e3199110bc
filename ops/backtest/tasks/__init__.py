"""What a backtest must know of each task: its logs, its vectors, its students and what is told beside."""
