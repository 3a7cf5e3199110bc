"""Fills the rooms' records from the settings and puts their parts together: a file for each process."""
