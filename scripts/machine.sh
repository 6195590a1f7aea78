# shellcheck shell=bash
# machine.sh - sourced by the other scripts: what the machine must have, and volumes to test on.
#
# Environment:
#   KMSFS_CACHE   downloads and tools that outlive a run (default /var/tmp/kmsfs-cache, or ~/.cache/kmsfs)
#   KMSFS_AREA    where backing trees of tests are made (default /var/tmp); must support user xattrs
#   KMSFS_BIN     the binary under test (default target/release/kmsfs)

export HOME=${HOME:-/root}
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin:$HOME/.cargo/bin
[ "$(id -u)" = 0 ] && default_cache=/var/tmp/kmsfs-cache || default_cache=${XDG_CACHE_HOME:-$HOME/.cache}/kmsfs
KMSFS_CACHE=${KMSFS_CACHE:-$default_cache}
KMSFS_AREA=${KMSFS_AREA:-/var/tmp}
PATH=$PATH:$KMSFS_CACHE/tools/bin

say() { printf '%s\n' "$*"; }
shout() { printf '\n*** %s\n' "$*" >&2; }
have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" = 0 ]; }

# as_root COMMAND...: through sudo where that is needed and there.
as_root() {
    if is_root; then "$@"; elif have sudo; then sudo "$@"; else return 1; fi
}

# missing COMMAND=PACKAGE... PACKAGE...: prints the packages that are not there.
missing() {
    local want
    for want in "$@"; do
        case $want in
        *=*) have "${want%%=*}" || say "${want#*=}" ;;
        *) [ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$want" 2>/dev/null)" = 'ii ' ] || say "$want" ;;
        esac
    done | sort -u
}

# need_packages COMMAND=PACKAGE... : installs what is missing; quick when all is there.
need_packages() {
    local absent
    mapfile -t absent < <(missing "$@")
    [ "${#absent[@]}" -gt 0 ] || return 0
    if ! have apt-get; then
        shout "these packages are missing and there is no apt-get: ${absent[*]}"
        return 1
    fi
    say "installing: ${absent[*]}"
    install_packages "${absent[@]}" && return 0
    as_root apt-get -qq update && install_packages "${absent[@]}" && return 0
    shout "cannot install ${absent[*]}; as root: apt-get update && apt-get install ${absent[*]}"
    return 1
}

install_packages() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o DPkg::Lock::Timeout=120 install --no-install-recommends "$@" >/dev/null
}

# need_cargo_tool CRATE...: a tool from crates.io, kept in the cache.
need_cargo_tool() {
    local crate
    for crate in "$@"; do
        have "$crate" && continue
        say "building $crate (once)"
        # They run for less long than they are compiled: no effort for their machine code.
        env -u CARGO_TARGET_DIR CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
            cargo install -q --locked --root "$KMSFS_CACHE/tools" "$crate" || return 1
    done
}

# need_cargo: cargo, or advice.
need_cargo() {
    have cargo && return 0
    shout 'there is no Rust here. Install it from https://rustup.rs (1.89 or newer), open a new shell and run this again.'
    return 1
}

# need_rust: cargo and the two companions that developers need.
need_rust() {
    need_cargo || return 1
    if ! cargo fmt --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1; then
        have rustup && rustup component add rustfmt clippy && return 0
        shout 'rustfmt or clippy is missing: rustup component add rustfmt clippy'
        return 1
    fi
}

# need_fuse: FUSE mounts work, for root and for users.
need_fuse() {
    if is_root && [ ! -e /dev/fuse ]; then
        modprobe fuse 2>/dev/null || true
        [ -e /dev/fuse ] || mknod -m 666 /dev/fuse c 10 229 2>/dev/null || true
    fi
    if ! fuse_opens; then
        shout '/dev/fuse is missing or cannot be opened, so nothing can be mounted and the tests would prove nothing.'
        shout 'Load the module (modprobe fuse); in a container: --device /dev/fuse --cap-add SYS_ADMIN.'
        return 1
    fi
    # What udev sets wherever it runs: unprivileged mounts need it.
    if is_root && [ "$(stat -c %a /dev/fuse)" != 666 ]; then chmod 666 /dev/fuse; fi
    return 0
}

# Opening tells whether a kernel stands behind the node. For a user, fusermount3 opens it.
fuse_opens() {
    if is_root; then (exec 3<>/dev/fuse) 2>/dev/null; else [ -c /dev/fuse ]; fi
}

# need_users NAME...: unprivileged users for the tests.
need_users() {
    local name
    for name in "$@"; do
        id "$name" >/dev/null 2>&1 || useradd --no-create-home --user-group --shell /usr/sbin/nologin "$name" || return 1
    done
}

# raise_limits: as far as the hard limits allow.
raise_limits() {
    ulimit -n "$(ulimit -Hn)" 2>/dev/null
    ulimit -c 0
}

# make_area: a new folder for one run, its path in AREA, gone with everything mounted in it at exit. The name is short
# because the names of sockets below it may have 107 bytes.
make_area() {
    need_packages setfattr=attr || return 1
    AREA=$(mktemp -d "$KMSFS_AREA/k.XXXXXX") || return 1
    chmod 755 "$AREA"
    trap leave_area EXIT
    trap 'exit 130' INT TERM
    if ! touch "$AREA/probe" || ! setfattr -n user.kmsf -v 1 "$AREA/probe"; then
        shout "$KMSFS_AREA has no user xattrs; set KMSFS_AREA to a folder on ext4, xfs or btrfs"
        return 1
    fi
    rm "$AREA/probe"
}

mounted_in_area() { awk -v area="$AREA/" 'index($5, area) == 1 { print $5 }' /proc/self/mountinfo | sort -r; }

# still_running: ids of processes of the tested binary that name this run's folder.
still_running() {
    local entry
    for entry in /proc/[0-9]*; do
        [ "$(basename "$(readlink "$entry/exe" 2>/dev/null)" 2>/dev/null)" = kmsfs ] || continue
        tr '\0' ' ' <"$entry/cmdline" 2>/dev/null | grep -qF "$AREA/" && say "${entry#/proc/}"
    done
}

# nothing_left: fails, and says what, if a mount or a daemon of this run is still there.
nothing_left() {
    local mounts daemons tries
    for tries in 1 2 3 4 5 6 7 8 9 10; do
        mounts=$(mounted_in_area)
        daemons=$(still_running)
        [ -z "$mounts$daemons" ] && return 0
        sleep 0.$tries
    done
    say "left mounted: ${mounts:-nothing}; left running: ${daemons:-nothing}" | tr '\n' ' '
    say ''
    return 1
}

unmount_area() {
    local mount pid
    cd /
    for mount in $(mounted_in_area); do
        umount "$mount" 2>/dev/null || fusermount3 -u "$mount" 2>/dev/null ||
            umount -l "$mount" 2>/dev/null || fusermount3 -uz "$mount" 2>/dev/null
    done
    for pid in $(still_running); do kill "$pid"; done
}

leave_area() {
    unmount_area
    [ -n "$(mounted_in_area)" ] || rm -rf "$AREA"
}

# volume_make NAME [init options]: a volume in $AREA/NAME/vault with its own keystore; the passphrase is cheap to derive.
volume_make() {
    local home=$AREA/$1
    shift
    mkdir -p "$home/vault" "$home/mnt"
    printf 'test passphrase of %s\n' "$home" >"$home/passfile"
    chmod 600 "$home/passfile"
    KMSFS_KEYSTORE=$home/keystore "$KMSFS_BIN" init "$home/vault" --unlock-time 1 --passfile "$home/passfile" "$@" >"$home/init.log" 2>&1 ||
        { cat "$home/init.log"; return 1; }
}

# volume_mount NAME [mount options]: mounts it at $AREA/NAME/mnt.
volume_mount() {
    local home=$AREA/$1
    shift
    KMSFS_KEYSTORE=$home/keystore "$KMSFS_BIN" mount "$home/vault" "$home/mnt" --passfile "$home/passfile" "$@" </dev/null || return 1
    mountpoint -q "$home/mnt" || { say "kmsfs mount returned 0 but $home/mnt is no mount"; return 1; }
}

# past_busy COMMAND...: repeats it for five seconds while it says that something is in use. What a program left running (git's
# maintenance does that) may be about to end; what stays in use longer is a fault.
past_busy() {
    local said status tries
    for tries in {1..50}; do
        said=$("$@" 2>&1)
        status=$?
        if [ $status = 0 ] || ! grep -qiE 'busy|in use' <<<"$said"; then break; fi
        sleep 0.1
    done
    [ -z "$said" ] || say "$said (try $tries)" >&2
    return $status
}

volume_unmount() { past_busy "$KMSFS_BIN" umount "$AREA/$1/mnt" && ! mountpoint -q "$AREA/$1/mnt"; }
