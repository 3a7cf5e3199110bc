"""Whether a version's signed numbers come out when they are computed anew."""
