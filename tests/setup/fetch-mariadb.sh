#!/bin/sh
# Puts MariaDB 11.8 from Debian's trixie into the folder named, beside whatever this machine has. It
# runs there with its own libraries, by DIRECTORY/bin/mariadbd: nothing is installed, and no root is
# needed. The mirror is the one that apt uses here.
set -eu

directory="$1"
work="$directory.new" # renamed at the end: a fetch that was cut short leaves nothing to mistake

refuse() {
    echo "MariaDB 11.8 cannot be fetched here: $1. Name a server that is here (make test-mariadb-11 MARIADBD=/path/to/mariadbd)." >&2
    exit 2
}

. "$(dirname "$0")/own-apt.sh"

echo "Fetching MariaDB from Debian's trixie into $directory"
own_apt trixie
unpack mariadb-server-core
run_there mariadbd mariadb
install_db_there mariadb mariadb
rm -rf "$directory"
mv "$work" "$directory"
