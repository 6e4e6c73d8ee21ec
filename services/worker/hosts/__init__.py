"""Host processes of a worker: their start, their pipes, the pool that keeps them warm, and their end."""
