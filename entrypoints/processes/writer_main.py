"""`python -m entrypoints.processes.writer_main SOCKET`: the writer process of a server."""

import signal
import socket
import sys

from entrypoints.runtime.interpreter import importing

if __name__ == "__main__":
    # A terminal sends signals to both processes; this one ends when the server closes the socket.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    with importing():
        from entrypoints.processes.writer_server import serve_commands
    serve_commands(socket.socket(fileno=int(sys.argv[1])))
