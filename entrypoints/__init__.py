"""Entrypoints: HTTP, worker and command line, and `composition.py`, which wires the parts."""

from entrypoints.runtime.search_path import refuse_replacements

refuse_replacements()  # before anything else of ours is looked for
