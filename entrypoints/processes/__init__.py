"""The processes of Fairlog: the server, its app, the writer process, recovery and registration.

Only the command line may import from here.
"""
