# Sourced by ./run and ./test: what the machine needs besides Rust, and how it gets it.

# program:package, for Debian and Ubuntu
NEEDS="nft:nftables tc:iproute2 ss:iproute2 iperf3:iperf3 ping:iputils-ping curl:curl busybox:busybox vsftpd:vsftpd sipp:sip-tester cc:build-essential"

# What ./test needs besides: a browser, for the tests of report.html, tshark, for those of the dissector, and clang, to make the relay's
# program for the kernel again.
TEST_NEEDS="chromium:chromium tshark:tshark clang-14:clang-14"

# Says what is missing and installs it, as root or by sudo; on another system it names the packages and stops.
install_needs() {
    local need missing=""
    PATH="$PATH:/usr/sbin:/sbin"
    for need in $NEEDS; do
        if ! command -v "${need%%:*}" >/dev/null && [[ " $missing " != *" ${need##*:} "* ]]; then
            missing="$missing ${need##*:}"
        fi
    done
    if ! command -v cargo >/dev/null; then
        echo "Rust is missing: install it from https://rustup.rs (or your system's cargo, 1.91 or newer)." >&2
        exit 4
    fi
    [ -z "$missing" ] && return
    if ! command -v apt-get >/dev/null; then
        echo "This machine lacks programs that Debian and Ubuntu have in the packages:$missing" >&2
        echo "Install their like, then start again." >&2
        exit 4
    fi
    local as=""
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || { echo "As root, install:$missing" >&2; exit 4; }
        as="sudo"
    fi
    echo "Installing:$missing" >&2
    $as apt-get update -qq >&2
    # vsftpd's package would start a server on this machine, where only scenarios need one.
    if [[ " $missing " == *" vsftpd "* ]] && command -v systemctl >/dev/null; then
        echo "vsftpd's own service is masked; to have it: systemctl unmask vsftpd" >&2
        $as systemctl mask vsftpd.service >&2 || true
    fi
    # Noninteractive: iperf3 would ask whether to start a service. The list is to be split into words.
    # shellcheck disable=SC2086
    $as env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
}
