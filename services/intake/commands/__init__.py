"""The commands of `mloc-intake`: one file a group of them, and what they share."""
