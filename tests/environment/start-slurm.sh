#!/usr/bin/env bash
# Starts a real Slurm on this machine for the tests in tests/clusters, with GPUs that are not there.
#
#   start-slurm.sh DIRECTORY [--constrain]    as root, on Debian; writes DIRECTORY/slurm.conf
#   stop-slurm.sh DIRECTORY                   ends it
#
# The node has four GPUs: device nodes of NVIDIA's major number, without a driver behind them. With
# --constrain a job may open its own GPUs only (ConstrainDevices, through the cgroup for devices).
set -euo pipefail
directory=$(mkdir -p "$1" && cd "$1" && pwd)
constrain=$([ "${2:-}" = --constrain ] && echo yes || echo no)
GPUS=4

[ "$(id -u)" = 0 ] || { echo "only root can start Slurm's daemons" >&2; exit 1; }
if ! dpkg -s slurm-wlm munge >/dev/null 2>&1; then
    command -v apt-get >/dev/null || { echo "Slurm is installed on Debian only" >&2; exit 1; }
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        slurm-wlm slurm-client slurm-wlm-basic-plugins munge >/dev/null
fi
if [ $constrain = yes ] && [ ! -w /sys/fs/cgroup/devices/tasks ]; then
    echo "constraining devices needs the devices controller of cgroup v1" >&2
    exit 1
fi

umask 022
mkdir -p "$directory"/{state,spool,devices,munge}
chmod 700 "$directory/munge"
for index in $(seq 0 $((GPUS - 1))); do
    node=$directory/devices/nvidia$index
    [ -c "$node" ] || mknod -m 666 "$node" c 195 "$index"
done
ports=($(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in sockets))'))
dd if=/dev/urandom of="$directory/munge/key" bs=1024 count=1 status=none
chmod 400 "$directory/munge/key"
cat >"$directory/slurm.conf" <<CONF
ClusterName=hermes
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=${ports[0]}
SlurmUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket=$directory/munge.socket
StateSaveLocation=$directory/state
SlurmdSpoolDir=$directory/spool
SlurmctldPidFile=$directory/slurmctld.pid
SlurmdPidFile=$directory/slurmd.pid
SlurmctldLogFile=$directory/slurmctld.log
SlurmdLogFile=$directory/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/$([ $constrain = yes ] && echo cgroup || echo none)
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
GresTypes=gpu
KillWait=5
SchedulerParameters=batch_sched_delay=0,sched_interval=1
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName=node NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=${ports[1]} CPUs=$GPUS RealMemory=1024 Gres=gpu:$GPUS State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES State=UP
CONF
echo "Name=gpu File=$directory/devices/nvidia[0-$((GPUS - 1))]" >"$directory/gres.conf"
cat >"$directory/cgroup.conf" <<CONF
CgroupPlugin=cgroup/v1
CgroupMountpoint=/sys/fs/cgroup
ConstrainDevices=$constrain
CONF

export SLURM_CONF=$directory/slurm.conf
munged --key-file="$directory/munge/key" --socket="$directory/munge.socket" \
    --pid-file="$directory/munged.pid" --log-file="$directory/munged.log" \
    --seed-file="$directory/munge/seed"
slurmctld -c
slurmd -N node
for _ in $(seq 150); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && exit 0
    sleep 0.2
done
echo "the node did not come up: $(tail -3 "$directory/slurmctld.log" "$directory/slurmd.log")" >&2
exit 1
