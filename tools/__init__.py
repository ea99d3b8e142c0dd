"""What builds and checks the distribution and the site; nothing of it is installed."""
