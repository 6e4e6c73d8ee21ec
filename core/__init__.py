"""The pure core: events, the fold, decisions and the task language. It knows no clock, socket, file or random number."""
