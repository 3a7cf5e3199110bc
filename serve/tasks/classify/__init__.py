"""Classification as its clients see it: in vLLM's shape, and in that of OpenAI's chat completions."""
