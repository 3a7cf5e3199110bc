"""OpenAI's chat completions, as every task speaks them that is served so: requests, answers, streams of events."""
