"""The endpoints, a file for each group of them, with the functions that answer."""
