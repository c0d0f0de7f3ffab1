#!/usr/bin/env bash
# Starts a real HTCondor pool for the tests in tests/clusters, with GPUs that are not there.
#
#   start-condor.sh DIRECTORY [SHARED [PATH…]]    as root, on Debian; condoruser submits jobs in
#                                                 DIRECTORY/root, and sees the further paths where
#                                                 they are here, all but the first read-only
#   stop-condor.sh DIRECTORY                      ends it
#
# bookworm has no HTCondor, so it lives in a chroot of trixie, DIRECTORY/root, which is made once (in
# half a minute). The pool has two GPUs, and tells a job which are its own by _CONDOR_AssignedGPUs
# alone, as pools do whose administrator names no other variable.
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
root=$directory/root
export LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive

[ "$(id -u)" = 0 ] || { echo "only root can start HTCondor's daemons" >&2; exit 1; }
command -v apt-get >/dev/null || { echo "this script knows only Debian" >&2; exit 1; }
if [ ! -e "$directory/made" ]; then
    command -v mmdebstrap >/dev/null ||
        { apt-get update -qq && apt-get install -y -qq --no-install-recommends mmdebstrap >/dev/null; }
    "$(dirname "$0")/stop-condor.sh" "$directory" # what is mounted there must not be removed with it
    grep -qF " $root/" /proc/self/mounts && { echo "$root has mounts that stay" >&2; exit 1; }
    rm -rf --one-file-system "$root"
    mmdebstrap --quiet --variant=minbase --dpkgopt=force-unsafe-io \
        --include=ca-certificates,passwd,minicondor,condor trixie "$root" >"$directory/install.log" 2>&1 ||
        { tail -n 3 "$directory/install.log" >&2; exit 1; }
    chroot "$root" useradd -m -s /bin/bash condoruser # HTCondor takes no jobs of root's
    touch "$directory/made"
fi

cp /etc/resolv.conf /etc/hosts "$root/etc/"
hostname >"$root/etc/hostname"
at() {
    mountpoint -q "$root$1" && return
    if [ -d "$1" ]; then mkdir -p "$root$1"; else mkdir -p "$(dirname "$root$1")" && touch "$root$1"; fi
    mount "${@:2}" "$root$1"
}
at /proc -t proc proc
at /dev --bind /dev
at /dev/shm --bind /dev/shm
for path in "${@:2}"; do
    at "$path" --bind "$path"
    [ "$path" = "$2" ] || mount -o remount,bind,ro "$root$path"
done
chmod 755 "$root/root" # some of the paths may be in it
port=$(python3 -c '
import socket
print(socket.create_server(("127.0.0.1", 0)).getsockname()[1])')
mkdir -p "$root"/run/{,lock/}condor
chroot "$root" chown condor: /run/condor /run/lock/condor
cat >"$root/etc/condor/config.d/99-hermes" <<CONF
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
COLLECTOR_HOST = 127.0.0.1:$port
USE_SHARED_PORT = True
SHARED_PORT_PORT = $port
NUM_CPUS = 4
MEMORY = 2000
NEGOTIATOR_INTERVAL = 2
NEGOTIATOR_MIN_INTERVAL = 1
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 1
UPDATE_INTERVAL = 5
START = TRUE
SUSPEND = FALSE
PREEMPT = FALSE
KILL = FALSE
MACHINE_RESOURCE_GPUs = GPU-0a0a0a0a, GPU-1b1b1b1b
ENVIRONMENT_FOR_AssignedGPUs =
# The / of a chroot is no mount point: with any of these, jobs are held ("Failed to unshare").
MOUNT_UNDER_SCRATCH =
MOUNT_PRIVATE_DEV_SHM = False
USE_PID_NAMESPACES = False
PER_JOB_NAMESPACES = False
BASE_CGROUP =
CGROUP_MEMORY_LIMIT_POLICY = none
CONF
chroot "$root" condor_master -pidfile /run/condor/master.pid
for _ in $(seq 100); do
    chroot "$root" condor_status -af Name 2>/dev/null | grep -q . &&
        chroot "$root" condor_q >/dev/null 2>&1 && exit 0
    sleep 0.3
done
echo "the pool did not come up; see $root/var/log/condor" >&2
exit 1
