"""A referee: it holds a log, and what clients were answered, against the documented rules.

It shares no code with the service: it reads the log by plain SQL and the archived part with
pyarrow, and has each rule written anew from the documentation. import-linter forbids it to import
anything of the service.
"""
