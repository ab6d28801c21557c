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
apt --yes --download-only install mysql-server-core libc6 || refuse "$(told)"
for package in "$work"/apt/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" |
        tar -x --keep-directory-symlink -C "$work/root" --exclude='*perl*' --exclude='./usr/share/doc' -f -
done
rm -rf "$work/apt"

# The server's own loader and libraries: those of this machine may be too old for it.
cat >"$work/bin/mysqld" <<'SHIM'
#!/bin/sh
root=$(cd "$(dirname "$0")/../root" && pwd)
for loader in "$root"/usr/lib/*/ld-linux-*.so.*; do :; done
exec "$loader" --library-path "$(dirname "$loader")" "$root/usr/sbin/mysqld" "$@" \
    --basedir="$root/usr" --plugin-dir="$root/usr/lib/mysql/plugin" \
    --lc-messages-dir="$root/usr/share/mysql" --character-sets-dir="$root/usr/share/mysql/charsets"
SHIM
chmod +x "$work/bin/mysqld"
"$work/bin/mysqld" --version || refuse "the server that was fetched does not run"
rm -rf "$directory"
mv "$work" "$directory"
