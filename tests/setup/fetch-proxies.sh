#!/bin/sh
# Puts nginx and Caddy from this Debian release into the folder named, as DIRECTORY/nginx and
# DIRECTORY/caddy. They are not installed: their packages would start them as services. Where both
# are in the path, it makes the folder alone.
set -eu

directory="$1"
work="$directory.new" # renamed at the end: a fetch that was cut short leaves nothing to mistake
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

refuse() {
    echo "nginx and Caddy cannot be fetched here: $1. Install both, then try again." >&2
    exit 2
}

if command -v nginx >/dev/null 2>&1 && command -v caddy >/dev/null 2>&1; then
    mkdir -p "$directory"
    exit 0
fi
[ -f /etc/os-release ] || refuse "there is no /etc/os-release"
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$release" ] || refuse "/etc/os-release names no release"
. "$(dirname "$0")/own-apt.sh"

echo "Fetching nginx and Caddy from Debian into $directory"
own_apt "$release"
apt --yes --download-only install nginx caddy || refuse "$(told)"
for package in "$work"/apt/cache/archives/nginx_*.deb "$work"/apt/cache/archives/caddy_*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/root" -f -
done
mv "$work/root/usr/sbin/nginx" "$work/root/usr/bin/caddy" "$work"
rm -rf "$work/apt" "$work/root" "$work/bin"
rm -rf "$directory"
mv "$work" "$directory"
