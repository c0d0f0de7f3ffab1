#!/bin/bash
# Installs Apptainer (commands `apptainer` and `singularity`) on Debian bookworm.
#   install-apptainer.sh        Needs root. Does nothing when both commands work.
#
# bookworm has no apptainer. sid's package needs libc6 >= 2.38 only for the C23 aliases
# __isoc23_strto{l,ul}: glibc_isoc23_fix.py points these at plain strtol and strtoul (a few
# bytes of each file), the package is put together again with the lower need, and apt
# installs it with bookworm's own dependencies.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
die() { echo "install-apptainer.sh: $*" >&2; exit 1; }

# A root that lacks a capability (that of a virtual machine or a container, say) cannot run
# a container with Apptainer's default of "all capabilities": every exec then dies with
# "Requesting capability set ...". Root's containers get what root has.
match_capabilities() {
    local names=(CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP
        LINUX_IMMUTABLE NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER
        SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE
        SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP
        MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
        CHECKPOINT_RESTORE) i permitted list=
    permitted=$((16#$(awk '/^CapPrm:/{print $2}' /proc/self/status)))
    for i in "${!names[@]}"; do
        if (( permitted >> i & 1 )); then list+=,CAP_${names[i]}; fi
    done
    if (( permitted == (1 << ${#names[@]}) - 1 )); then return; fi
    apptainer -q -s capability add --user root "${list#,}" 2>/dev/null
    apptainer config global --set "root default capabilities" file
}

both_work() { apptainer --version && singularity --version; } >/dev/null 2>&1

# One at a time, the looking included: an Apptainer that is just being installed works before it is
# set up. The lock is this script itself, so that no lock file stays behind.
exec 9<"${BASH_SOURCE[0]}"
flock 9
if both_work; then
    # Not again: somebody may be reading the settings just now.
    if [ "$(id -u)" = 0 ] &&
        [ "$(apptainer config global --get "root default capabilities")" != file ]; then
        match_capabilities
    fi
    echo "already here: $(apptainer --version)"
    exit 0
fi
[ "$(id -u)" = 0 ] || die "installing Apptainer needs root; ask an administrator, or load its module"
command -v apt-get >/dev/null || die "this script knows only Debian; install Apptainer by other means"
[ "$(dpkg --print-architecture)" = amd64 ] || die "this script knows only amd64"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work"/{lists/partial,cache/archives/partial,get}

# The machine's own main archive, with the suite changed to sid.
if [ -f /etc/apt/sources.list.d/debian.sources ]; then
    source=$work/sid.sources
    awk 'BEGIN{RS="";ORS="\n\n"} !/(^|\n)Suites:[^\n]*-security/' \
        /etc/apt/sources.list.d/debian.sources |
        sed -E 's/^(Suites:).*/\1 sid/; s/^(Components:).*/\1 main/; s/^(Types:).*/\1 deb/' >"$source"
else
    source=$work/sid.list
    sed -nE '/-security/d; s/^(deb( +\[[^]]*\])? +[^ ]+) +[a-z]+ .*/\1 sid main/p' \
        /etc/apt/sources.list | head -n1 >"$source"
fi
sid=(-o Dir::Etc::SourceList="$source" -o Dir::Etc::SourceParts=/dev/null
    -o Dir::State::Lists="$work/lists" -o Dir::State::status=/dev/null -o Dir::Cache="$work/cache"
    -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Retries=3)
apt-get "${sid[@]}" -qq update
(cd "$work/get" && apt-get "${sid[@]}" -qq download apptainer)

dpkg-deb -R "$work"/get/apptainer_*.deb "$work/package"
mapfile -t elf < <(find "$work/package/usr" -type f \
    \( -path '*/bin/apptainer' -o -path '*/apptainer/bin/*' -o -name '*.so' \))
python3 "$here/glibc_isoc23_fix.py" "${elf[@]}"
libc=$(dpkg-query -W -f '${Version}' libc6)
libc=${libc%%-*}
sed -i -E "s/libc6 \(>= [0-9.]+\)/libc6 (>= $libc)/; s/^(Version: .*)/\1+glibc$libc/" \
    "$work/package/DEBIAN/control"
(cd "$work/package" && find . -type f ! -path './DEBIAN/*' -printf '%P\0' | sort -z |
    xargs -0 md5sum >DEBIAN/md5sums)
dpkg-deb --root-owner-group -Znone -b "$work/package" "$work/apptainer.deb" >/dev/null

apt-get -qq update
# squashfuse, fuse2fs, fuse-overlayfs: so that users other than root can mount an image too.
apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends \
    "$work/apptainer.deb" squashfuse fuse2fs fuse-overlayfs >"$work/log" 2>&1 ||
    { cat "$work/log" >&2; die "apt-get install failed"; }
match_capabilities
both_work || die "Apptainer was installed but does not run"
apptainer --version
