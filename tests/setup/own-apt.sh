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
