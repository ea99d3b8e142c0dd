"""Slow, obvious versions of what laconic computes, to compare with. They share no code with it."""
