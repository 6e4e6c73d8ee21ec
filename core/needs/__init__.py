"""What follows from a task's spec before it runs: what a worker must have, which engine serves it, who is told of its end, its seed."""
