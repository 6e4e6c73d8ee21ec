"""The worker: registers, takes dispatches from its inbox, runs them in host processes and reports."""
