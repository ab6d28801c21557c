"""The doors: HTTP, worker and command line, and the composition root that wires the rest."""
