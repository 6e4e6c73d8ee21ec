"""What is on disk and needed no more: found by what the log says, shown first, and removed slowly."""
