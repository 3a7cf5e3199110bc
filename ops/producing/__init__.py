"""Calls of a teacher that other programs made, published into a lane's topic: checked as an import's rows are."""
