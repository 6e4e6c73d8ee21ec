"""The embedded server: started and supervised, found by other commands, and what is said where there is none."""
