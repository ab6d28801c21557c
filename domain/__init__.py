"""The language of Fairlog: events, commands and the pure rules between them. No I/O."""
