#!/bin/sh
# Puts a MySQL server from Debian's unstable release into the folder named, beside whatever this
# machine has. It runs there with its own libraries, by DIRECTORY/bin/mysqld: nothing is installed,
# and no root is needed. The mirror is the one that apt uses here.
set -eu

directory="$1"
work="$directory.new" # renamed at the end: a fetch that was cut short leaves nothing to mistake

refuse() {
    echo "MySQL cannot be fetched here: $1. Name a MySQL server that is here (make … MYSQLD=/path/to/mysqld), or leave MySQL out (make test MYSQLD=none)." >&2
    exit 2
}

. "$(dirname "$0")/own-apt.sh"

echo "Fetching MySQL from Debian's unstable release into $directory"
own_apt sid
unpack mysql-server-core
run_there mysqld mysql
rm -rf "$directory"
mv "$work" "$directory"
