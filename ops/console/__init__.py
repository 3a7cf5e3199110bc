"""The console: pages on the gateway's admin port that show what the commands show, and move lanes for who may."""
