# shellcheck shell=bash
# trees.sh - sourced: a small tree with everything that copying tools lose, and its full description.

# tree_make DIR: as root also devices, owners, capabilities and trusted xattrs.
tree_make() (
    umask 022
    mkdir -p "$1" && cd "$1" || return 1
    cp -a /usr/share/perl plain &&
        ln "$(find plain -type f -name strict.pm | head -1)" second-link &&
        ln -s missing/target dangling &&
        ln -s "$(printf 'long/%.0s' {1..300})" long-target &&
        mkfifo pipe &&
        truncate -s 10M sparse &&
        printf 'island' | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none &&
        : >empty &&
        printf 'old' >old && setfattr -n user.colour -v 'dark blue' old && touch -d '1999-12-31 23:59:59.123456789' old &&
        : >listed && setfacl -m u:nobody:rwx,g:nogroup:r listed &&
        mkdir heir && setfacl -d -m u:nobody:rwx,g::r-x heir &&
        printf 'set ids' >set-ids && chmod 6755 set-ids &&
        mkdir sticky && chmod 1777 sticky &&
        : >"$(printf 'n%.0s' {1..255})" &&
        : >$'line\nbreak' && : >$'\xc3\xbcnicode' && : >' blanks ' && : >'-dash' || return 1
    is_root || return 0
    mknod character c 1 3 && mknod block b 7 200 &&
        setfattr -n trusted.note -v hidden old && chown 1234:4321 old && chown -h 1234:4321 dangling &&
        cp /bin/true capable && setcap cap_net_raw+ep capable
)

# tree_describe DIR: type, mode, owner, links, size, times, target, xattrs and ACLs of every name in it.
tree_describe() (
    cd "$1" || return 1
    # A directory's size and links are the filesystem's own affair.
    find . \( -type d -printf '%p|%y|%m|%U:%G|%T@\n' \) -o -printf '%p|%y|%m|%U:%G|%n|%s|%T@|%l\n' | LC_ALL=C sort
    find . -print0 | LC_ALL=C sort -z | xargs -0 getfattr -h -d -m '^(user|trusted|security)\.' -- 2>/dev/null
    find . ! -type l -print0 | LC_ALL=C sort -z | xargs -0 getfacl -n -p -- 2>/dev/null
)

# tree_same A B: prints what differs. Time stamps of B are compared to the nanosecond.
tree_same() {
    diff <(tree_describe "$1") <(tree_describe "$2") | head -40
    [ "${PIPESTATUS[0]}" = 0 ] && diff -r --no-dereference "$1/plain" "$2/plain" && cmp "$1/sparse" "$2/sparse"
}
