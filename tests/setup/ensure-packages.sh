#!/bin/sh
# Installs what this machine lacks of the things named (python, mariadb, chromium, node, go,
# readers, systemd, galera, wrk, postgresql, redis), where it is Debian and we may; else says in one line what to
# install, and exits 2.
set -eu

PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin" # Debian keeps mariadbd where users do not look
python="${PYTHON:-python3}"

refuse() {
    echo "$1" >&2
    exit 2
}

has() { command -v "$1" >/dev/null 2>&1; }

# Sets `packages` to the Debian packages that bring what is missing.
look_for() {
    case "$1" in
    python)
        "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
            refuse "Fairlog needs Python 3.11 or newer as $python: install it, or name another with PYTHON=…"
        "$python" -c 'import ensurepip, venv' 2>/dev/null || packages="$packages python3-venv"
        ;;
    mariadb)
        # The server alone: mariadb-server would also set up and start a service.
        [ -n "${FAIRLOG_TEST_DATABASE_URL:-}" ] || has mariadbd || has mysqld ||
            packages="$packages mariadb-server-core mariadb-client-core"
        ;;
    chromium)
        has chromium || packages="$packages chromium"
        ;;
    readers) # what the commands of the documents use
        has curl || packages="$packages curl"
        has jq || packages="$packages jq"
        has sqlite3 || packages="$packages sqlite3"
        has mariadb-dump || packages="$packages mariadb-client"
        ;;
    galera) # what a state transfer between two nodes uses
        has rsync || packages="$packages rsync"
        has lsof || has ss || packages="$packages lsof"
        ;;
    wrk)
        has wrk || packages="$packages wrk"
        ;;
    node)
        has node || packages="$packages nodejs"
        ;;
    go) # with the packages that read signed notes and tiles of transparency logs
        has go || packages="$packages golang-go"
        [ -d /usr/share/gocode/src/golang.org/x/mod/sumdb ] ||
            packages="$packages golang-golang-x-mod-dev"
        ;;
    systemd)
        has systemd-analyze || packages="$packages systemd"
        ;;
    postgresql)
        has postgres || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 ||
            packages="$packages postgresql"
        ;;
    redis)
        has redis-server || packages="$packages redis-server"
        ;;
    *)
        refuse "ensure-packages.sh knows python, mariadb, chromium, node, go, readers, systemd, galera, wrk, postgresql and redis, not $1"
        ;;
    esac
}

packages=""
for thing in "$@"; do look_for "$thing"; done
[ -n "$packages" ] || exit 0
please="Please install:$packages (names of Debian's packages), then try again."

{ [ -f /etc/debian_version ] && has apt-get; } || refuse "$please"
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif has sudo && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
    as_root="sudo"
else
    refuse "$please"
fi

echo "Installing with apt-get:$packages"
apt() { # quiet but for errors; waits for another apt-get to end
    $as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}
apt update || echo "apt-get update failed; trying with the lists that are here" >&2
# shellcheck disable=SC2086 # one word for each package
apt install --yes --no-install-recommends $packages || refuse "$please"
