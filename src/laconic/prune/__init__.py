"""Pruning across traces (DeepPrune, arXiv 2510.08483): strategies that start, judge, stop, resume and vote."""
