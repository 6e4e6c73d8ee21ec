"""The tools that an agent may use, each bounded in what it reaches."""
