"""A lane of labels, asked as OpenAI's chat completions."""
