"""`mloc demo`: the main job once, on tiny models, in a folder and with services of its own."""
