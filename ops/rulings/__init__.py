"""What people decide about a lane's older answers."""
