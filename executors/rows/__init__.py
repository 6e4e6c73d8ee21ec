"""The rows of a task: read from wherever its data are, and recorded as they are answered."""
