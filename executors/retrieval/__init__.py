"""Documents, the index made of them, and answers from the passages that are found."""
