"""Training: supervised, from preferences, from rewards."""
