"""Spans of OpenTelemetry as the code knows them: no library of it is imported here; where it is off, none is made."""
