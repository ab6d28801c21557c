"""Entrypoints: HTTP, worker and command line, and `composition.py`, which wires the parts.

Rules about jobs, limits and fairness do not belong here but in `domain`, and tables not here but in
`adapters` and `projections`.
"""

from entrypoints.runtime.search_path import refuse_replacements

refuse_replacements()  # before anything else of ours is looked for
