"""How a chatting student is fitted."""
