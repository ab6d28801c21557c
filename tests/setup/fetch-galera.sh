#!/bin/sh
# Puts MariaDB and Galera from Debian's bookworm, with the scripts of state transfers, into the folder
# named: nothing is installed, and no root is needed. A node is DIRECTORY/bin/mariadbd, with
# DIRECTORY/root/usr/bin in its PATH. The mirror is the one that apt uses here.
set -eu

directory="$1"
work="$directory.new" # renamed at the end: a fetch that was cut short leaves nothing to mistake

refuse() {
    echo "Galera cannot be fetched here: $1." >&2
    exit 2
}

. "$(dirname "$0")/own-apt.sh"

echo "Fetching MariaDB and Galera from Debian's bookworm into $directory"
own_apt bookworm
unpack mariadb-server galera-4
run_there mariadbd mysql
install_db_there mysql mysql
rm -rf "$directory"
mv "$work" "$directory"
