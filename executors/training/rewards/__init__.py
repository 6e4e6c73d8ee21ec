"""What answers are rewarded for: terms of text, python functions in the sandbox, reward models."""
