"""What the state lacks of what should be: which events the scheduler and the aggregator say next, and on what grounds."""
