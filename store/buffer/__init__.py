"""The replay buffer: items, their merge, and the two stores that keep them."""
