"""One lane at the gateway: what ops brings for it, how its parts are put together, and what it says of itself."""
