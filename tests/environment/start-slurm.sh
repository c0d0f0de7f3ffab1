#!/usr/bin/env bash
# Starts a real Slurm on this machine for the tests in tests/clusters, with GPUs that are not there.
#
#   start-slurm.sh DIRECTORY [--accounting | --constrain | --hosts [PATH...]]    as root, on Debian
#   stop-slurm.sh DIRECTORY                                                      ends it
#
# It writes DIRECTORY/slurm.conf. The node has four GPUs: device nodes of NVIDIA's major number,
# without a driver behind them. With --constrain a job may open its own GPUs only (ConstrainDevices,
# through the cgroup for devices).
#
# With --accounting there is a slurmdbd, with a MariaDB of its own, so that sacct tells of jobs that have ended.
#
# With --hosts there are three hosts, two of them nodes with two GPUs each: "login", "node1" and
# "node2" have network, PID, UTS and IPC namespaces of their own, know each other by name, and have
# their own /tmp and /dev/shm, in which they share the PATHs and DIRECTORY. DIRECTORY/login.pid and so on have each one's first
# process: what runs in a host is started by nsenter, and ends when that process is killed.
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
constrain=$([ "${2:-}" = --constrain ] && echo yes || echo no)
accounting=$([ "${2:-}" = --accounting ] && echo yes || echo no)
if [ "${2:-}" = --hosts ]; then
    shared=("$directory" "${@:3}") nodes=(node1 node2) cpus=3 gpus=2
else
    shared=() nodes=(node) cpus=4 gpus=4
fi

[ "$(id -u)" = 0 ] || { echo "only root can start Slurm's daemons" >&2; exit 1; }
packages=(slurm-wlm slurm-client slurm-wlm-basic-plugins munge)
[ $accounting = no ] || packages+=(slurmdbd mariadb-server)
( # several may be started at once
    flock 9
    dpkg -s "${packages[@]}" >/dev/null 2>&1 && exit 0
    command -v apt-get >/dev/null || { echo "Slurm is installed on Debian only" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
) 9>/var/lock/hermes-slurm
if [ $constrain = yes ] && [ ! -w /sys/fs/cgroup/devices/tasks ]; then
    echo "constraining devices needs the devices controller of cgroup v1" >&2
    exit 1
fi

umask 022
mkdir -p "$directory"/{state,spool,devices,munge}
chmod 700 "$directory/munge"
for index in $(seq 0 $((gpus - 1))); do
    node=$directory/devices/nvidia$index
    [ -c "$node" ] || mknod -m 666 "$node" c 195 "$index"
done
ports=($(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
print(*(one.getsockname()[1] for one in sockets))'))

# Starts a host: NAME NUMBER. Its first process stays in the foreground of its own namespaces.
start_host() {
    setsid unshare --net --mount --pid --uts --ipc --fork bash -c '
        set -e
        mount -t proc proc /proc
        mount -t tmpfs tmpfs /dev/shm
        mount --bind /tmp /mnt
        mount -t tmpfs tmpfs /tmp
        for path in "${@:2}"; do
            case $path in /tmp/*) mkdir -p "$path" && mount --bind "/mnt/${path#/tmp/}" "$path" ;; esac
        done
        umount --lazy /mnt
        mount --bind "$2/hosts" /etc/hosts
        hostname "$1"
        while :; do sleep 1000; done # it reaps what is left to it
    ' "host-$1" "$1" "${shared[@]}" </dev/null >"$directory/$1.log" 2>&1 &
    local outside=$! first=
    until [ -n "$first" ] && [ "$(nsenter --target "$first" --uts hostname)" = "$1" ]; do
        first=$(cat "/proc/$outside/task/$outside/children" 2>/dev/null) ||
            { echo "the host $1 did not come up: $(cat "$directory/$1.log")" >&2; exit 1; }
        first=${first% }
        sleep 0.05
    done
    echo "$first" >"$directory/$1.pid"
    ip link add "$bridge-$2" type veth peer name eth0 netns "$first"
    ip link set "$bridge-$2" master "$bridge" up
    nsenter --target "$first" --net sh -c "
        ip link set lo up
        ip address add $network.$2/24 dev eth0
        ip link set eth0 up"
}
if [ ${#shared[@]} -gt 0 ]; then
    bridge=hermes$(od -An -N2 -tx1 /dev/urandom | tr -d ' ')
    network=10.$((RANDOM % 256)).$((RANDOM % 256))
    ip link add "$bridge" type bridge
    echo "$bridge" >"$directory/bridge"
    ip address add "$network.1/24" dev "$bridge"
    ip link set "$bridge" up
    printf '%s\n' "127.0.0.1 localhost" "$network.2 login" "$network.3 node1" "$network.4 node2" \
        >"$directory/hosts"
    start_host login 2
    start_host node1 3
    start_host node2 4
fi
dd if=/dev/urandom of="$directory/munge/key" bs=1024 count=1 status=none
chmod 400 "$directory/munge/key"
cat >"$directory/slurm.conf" <<CONF
ClusterName=hermes
SlurmctldHost=$(hostname -s)(${network:-127.0.0}.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$directory/munge.socket
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool/%n
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd-%n.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/$([ $constrain = yes ] && echo cgroup || echo none)
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
SlurmdTimeout=10
SchedulerParameters=batch_sched_delay=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
$(if [ $accounting = yes ]; then
    echo AccountingStorageType=accounting_storage/slurmdbd
    echo AccountingStorageHost=127.0.0.1
    echo "AccountingStoragePort=${ports[2]}"
    echo "AccountingStoragePass=$directory/munge.socket"
else
    echo AccountingStorageType=accounting_storage/none
fi)
$(for index in "${!nodes[@]}"; do
    echo "NodeName=${nodes[index]} Port=${ports[1]} CPUs=$cpus RealMemory=1024 Gres=gpu:$gpus State=UNKNOWN" \
        "$([ -n "${network:-}" ] && echo "NodeAddr=$network.$((index + 3))" || echo "NodeAddr=127.0.0.1 NodeHostname=$(hostname -s)")"
done)
PartitionName=main Nodes=ALL Default=YES State=UP
CONF
echo "Name=gpu File=$directory/devices/nvidia[0-$((gpus - 1))]" >"$directory/gres.conf"
cat >"$directory/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainDevices=$constrain
CONF

export SLURM_CONF=$directory/slurm.conf
munged --key-file="$directory/munge/key" --socket="$directory/munge.socket" \
    --pid-file="$directory/munged.pid" --log-file="$directory/munged.log" \
    --seed-file="$directory/munge/seed"
if [ $accounting = yes ]; then
    mariadb-install-db --no-defaults --user=root --auth-root-authentication-method=socket \
        --datadir="$directory/database" --skip-test-db >"$directory/mariadb.log" 2>&1
    mariadbd --no-defaults --user=root --datadir="$directory/database" --skip-networking \
        --socket="$directory/database.socket" --pid-file="$directory/mariadbd.pid" \
        --innodb-lock-wait-timeout=900 </dev/null >>"$directory/mariadb.log" 2>&1 &
    for _ in $(seq 150); do
        mariadb-admin --no-defaults --socket="$directory/database.socket" ping >/dev/null 2>&1 && break
        sleep 0.2
    done
    (umask 077 && cat >"$directory/slurmdbd.conf" <<CONF
AuthType=auth/munge
AuthInfo=socket=$directory/munge.socket
DbdHost=$(hostname -s)
DbdAddr=127.0.0.1
DbdPort=${ports[2]}
SlurmUser=root
LogFile=$directory/slurmdbd.log
PidFile=$directory/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
CONF
    )
    MYSQL_UNIX_PORT=$directory/database.socket slurmdbd
    for _ in $(seq 150); do
        timeout 5 sacctmgr --immediate add cluster hermes >/dev/null 2>&1 && break
        sleep 0.2
    done
fi
slurmctld -c
for node in "${nodes[@]}"; do
    mkdir -p "$directory/spool/$node"
    if [ -n "${network:-}" ]; then
        nsenter --target "$(cat "$directory/$node.pid")" --net --mount --pid --uts --ipc slurmd -N "$node"
    else
        slurmd -N "$node"
    fi
done
for _ in $(seq 150); do
    [ "$(sinfo -h -N -t idle -o %N 2>/dev/null | wc -l)" = ${#nodes[@]} ] && exit 0
    sleep 0.2
done
echo "not all nodes came up: $(tail -3 "$directory/slurmctld.log" "$directory"/slurmd-*.log)" >&2
exit 1
