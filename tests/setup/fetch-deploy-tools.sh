#!/bin/sh
# Puts the tools that check deploy/ into the folder named: DIRECTORY/promtool from this Debian
# release, and DIRECTORY/docker-compose from Debian's unstable one, since older ones have another
# file format. They are not installed: the package of promtool would start Prometheus.
set -eu

directory="$1"
work="$directory.new"

refuse() {
    echo "promtool and docker-compose cannot be fetched here: $1. Put both into $directory, then try again." >&2
    exit 2
}

[ -f /etc/os-release ] || refuse "there is no /etc/os-release"
release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
[ -n "$release" ] || refuse "/etc/os-release names no release"
. "$(dirname "$0")/own-apt.sh"

fetch() { # PACKAGE RELEASE PATH: the file at this path in the package, into the folder named
    own_apt "$2"
    (cd "$work" && apt download "$1") || refuse "$(told)"
    dpkg-deb --fsys-tarfile "$work/$1"_*.deb | tar -x -C "$work/root" -f - "./$3"
    "$work/root/$3" --version >/dev/null 2>&1 || refuse "$1 was fetched and does not run"
    mkdir -p "$directory"
    mv "$work/root/$3" "$directory"
    rm -rf "$work"
}

echo "Fetching promtool and docker-compose from Debian into $directory"
trap '[ "$?" = 0 ] || rm -rf "$directory"' EXIT # of a fetch that was cut short
fetch prometheus "$release" usr/bin/promtool
fetch docker-compose sid usr/libexec/docker/cli-plugins/docker-compose
