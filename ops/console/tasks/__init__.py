"""How each task's questions and answers are shown to a person."""
