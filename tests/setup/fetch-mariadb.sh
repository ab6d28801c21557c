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
# What the package's own script does, for which it needs a program of another package.
cat >"$work/bin/mariadb-install-db" <<'SHIM'
#!/bin/sh
bin=$(cd "$(dirname "$0")" && pwd)
cd "$bin/../root/usr/share/mariadb"
for option; do
    case "$option" in --datadir=*) data="${option#*=}" ;; esac
done
mkdir -p "$data"
{
    printf '%s;\n' 'CREATE DATABASE IF NOT EXISTS mysql' 'USE mysql' 'SET @auth_root_socket = NULL'
    cat mariadb_system_tables.sql mariadb_performance_tables.sql mariadb_system_tables_data.sql \
        fill_help_tables.sql maria_add_gis_sp_bootstrap.sql mariadb_sys_schema.sql
} | "$bin/mariadbd" "$@" --bootstrap --log-warnings=0 --enforce-storage-engine= --max-allowed-packet=8M
SHIM
chmod +x "$work/bin/mariadb-install-db"
rm -rf "$directory"
mv "$work" "$directory"
