"""`mloc check`: does this deployment do what it is for? Small tasks through the whole of it, and a look at what comes back."""
