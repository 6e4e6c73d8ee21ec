"""All tasks that the log ever told of, in SQLite: a projection that can be thrown away and built again."""
