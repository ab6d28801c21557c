"""Read models, each a pure fold with tables of its own. They are disposable: drop them and replay.

Where an archive has cut the log, the replay begins with the snapshot at the cut (`log_snapshot`),
which is a part of the log.
"""
