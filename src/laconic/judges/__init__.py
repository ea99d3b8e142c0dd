"""Judges that can be trained, and what trains and scores them. Import what you need from the modules: each is one noun."""
