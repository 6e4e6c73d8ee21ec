"""Intake: from YAML to events of the control log, on the command line and over HTTP."""
