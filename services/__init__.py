"""The shell around the core: the event log, the services, intake, the worker agent and `mloc up`."""
