"""Live streams: the events of the log and the log lines of tasks, as they come, for any number of readers that each go at their own pace."""
