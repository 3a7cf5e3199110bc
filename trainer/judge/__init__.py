"""What is believed of it: intervals, calibration, the gate."""
