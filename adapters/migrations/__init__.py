"""How the log's own tables come to be. Projections create theirs themselves."""
