"""Chat as its clients see it: OpenAI's chat completions, whole or as a stream."""
