"""The doors: HTTP, worker and command line, and the composition root that wires the rest."""

from entrypoints.runtime.search_path import refuse_replacements

refuse_replacements()  # before anything else of ours is looked for
