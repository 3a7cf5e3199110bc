"""What is learned: schedule, snapshot, fit, evaluation, calibration and the gate."""
