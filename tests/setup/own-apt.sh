# To be sourced. Lets apt-get fetch packages into the folder $work, where nothing is installed and no
# root is needed: `own_apt RELEASE`, then `apt …`. The mirror is the one that apt uses here. Whoever
# sources it defines `refuse REASON`.

own_apt() {
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
    echo "deb [signed-by=$keyring] $mirror $1 main" >"$work/apt/sources.list"
    apt update || refuse "$(told)"
}

apt() { # in this folder alone
    apt-get -qq -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State="$work/apt" -o Dir::State::Lists="$work/apt/lists" \
        -o Dir::State::status="$work/apt/status" -o Dir::Cache="$work/apt/cache" \
        -o Acquire::Languages=none -o APT::Install-Recommends=false \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$work/apt/output" 2>&1
}
told() { tail -n 1 "$work/apt/output"; }

# Downloads packages and all that they need into $work/root, and removes what apt has kept.
unpack() { # PACKAGE...
    apt --yes --download-only install "$@" libc6 || refuse "$(told)"
    for package in "$work"/apt/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" |
            tar -x --keep-directory-symlink -C "$work/root" --exclude='*perl*' --exclude='./usr/share/doc' -f -
    done
    rm -rf "$work/apt"
}

# Makes $work/bin/PROGRAM, which runs a database server there by its own loader and libraries: those
# of this machine may be too old for it. SHARE is the folder of its messages in usr/share.
run_there() { # PROGRAM SHARE
    cat >"$work/bin/$1" <<SHIM
#!/bin/sh
root=\$(cd "\$(dirname "\$0")/../root" && pwd)
for loader in "\$root"/lib/*/ld-linux-*.so.* "\$root"/usr/lib/*/ld-linux-*.so.*; do
    [ -f "\$loader" ] && break # before trixie it is in /lib
done
libraries=\$(basename "\$(dirname "\$loader")")
exec "\$loader" --library-path "\$root/lib/\$libraries:\$root/usr/lib/\$libraries" "\$root/usr/sbin/$1" "\$@" \\
    --basedir="\$root/usr" --plugin-dir="\$root/usr/lib/mysql/plugin" \\
    --lc-messages-dir="\$root/usr/share/$2" --character-sets-dir="\$root/usr/share/$2/charsets"
SHIM
    chmod +x "$work/bin/$1"
    "$work/bin/$1" --version || refuse "the server that was fetched does not run"
}

# Makes $work/bin/mariadb-install-db, which does what the package's own script does: that needs a
# program of another package. The names of its SQL files begin with PREFIX.
install_db_there() { # SHARE PREFIX
    cat >"$work/bin/mariadb-install-db" <<SHIM
#!/bin/sh
bin=\$(cd "\$(dirname "\$0")" && pwd)
cd "\$bin/../root/usr/share/$1"
for option; do
    case "\$option" in --datadir=*) data="\${option#*=}" ;; esac
done
mkdir -p "\$data"
{
    printf '%s;\n' 'CREATE DATABASE IF NOT EXISTS mysql' 'USE mysql' 'SET @auth_root_socket = NULL'
    cat $2_system_tables.sql $2_performance_tables.sql $2_system_tables_data.sql \
        fill_help_tables.sql maria_add_gis_sp_bootstrap.sql $2_sys_schema.sql
} | "\$bin/mariadbd" "\$@" --bootstrap --log-warnings=0 --enforce-storage-engine= --max-allowed-packet=8M
SHIM
    chmod +x "$work/bin/mariadb-install-db"
}
