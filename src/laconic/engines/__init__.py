"""Where tokens come from. `base` holds the interface; each engine is a package beside it."""
