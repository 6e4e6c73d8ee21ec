"""The parts of the fold, by whom an event is about. `core/fold.py` says which event goes where."""
