"""What bounds a run, and how long it takes: a flow model, and measurements beside it."""
