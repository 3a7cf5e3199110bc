"""What an operator does to a lane's champion, and whether the gateways have followed."""
