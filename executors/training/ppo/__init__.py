"""Proximal policy optimisation: rollouts, rewards per token, advantages, clipped updates."""
