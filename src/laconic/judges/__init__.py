"""Judges: how probably will two traces end in the same answer? Import what you need from the modules: each is one noun."""
