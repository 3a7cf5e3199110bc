"""Dashboards for Grafana, described in Python: one for each who looks."""
