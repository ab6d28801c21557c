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

for program in apt-get dpkg-deb; do
    command -v "$program" >/dev/null 2>&1 || refuse "that needs Debian's $program"
done
mirror=$(
    {
        cat /etc/apt/sources.list.d/*.sources 2>/dev/null | sed -n 's/^URIs: *\([^ ]*\).*/\1/p'
        cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null |
            sed -n 's/^deb \(\[[^]]*\] \)\{0,1\}\([^ ]*\) .*/\2/p'
    } | grep -v security | head -n 1
)
[ -n "$mirror" ] || refuse "apt has no sources"
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[ -f "$keyring" ] || refuse "there is no $keyring"

rm -rf "$work"
mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root" "$work/bin"
work=$(cd "$work" && pwd)
: >"$work/apt/status" # of packages that are installed: none, so that every library comes along
echo "deb [signed-by=$keyring] $mirror sid main" >"$work/apt/sources.list"

apt() { # in this folder alone
    apt-get -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$work/apt" -o Dir::State::Lists="$work/apt/lists" \
        -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" \
        -o Acquire::Languages=none -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$work/apt/output" 2>&1
}
told() { tail -n 1 "$work/apt/output"; }

echo "Fetching MySQL from Debian's unstable release into $directory"
apt update || refuse "$(told)"
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
