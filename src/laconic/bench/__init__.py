"""Measuring: accuracy against cache size, speed against bytes, what pruning saves, and what traces look like.

`stats` (intervals), `journal` (results that survive an interruption), `environment` (what a figure was measured on),
`accuracy` and `contenders` (policies at equal cache size), `shapes`, `bandwidth` and `throughput` (speed),
`collecting`, `lineup`, `parallel` and `rig` (strategies on the same recorded traces, and live), `entropy` and `redundancy`
(traces). Nothing here prints or draws; `laconic.report` and `laconic.cli` do.
"""
