"""The lab: what measures the library, one folder an experiment, each with its command, its run, its rows and its table.

`shared/` holds what experiments have in common: the journal that resumes, statistics, figures. The lab may use the library
and the command line; nothing outside of it imports it (`cli/` looks its commands up by name).
"""
