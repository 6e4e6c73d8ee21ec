"""`mloc up`: the services of one machine as child processes, started, watched and stopped in order."""
