#!/usr/bin/env bash
# Ends what start-slurm.sh started in a directory: its jobs, its daemons and their cgroups.
directory=$(cd "$1" && pwd) || exit 1
export SLURM_CONF=$directory/slurm.conf
if kill -0 "$(cat "$directory/slurmctld.pid" 2>/dev/null)" 2>/dev/null; then
    timeout 10 scancel --partition=main 2>/dev/null
    for _ in $(seq 50); do
        [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break
        sleep 0.2
    done
fi
for host in login node1 node2; do # the first process of each: the kernel ends the others with it
    pid=$(cat "$directory/$host.pid" 2>/dev/null) && kill -9 "$pid" 2>/dev/null
done
for daemon in slurmd-node slurmctld slurmdbd mariadbd munged; do
    pid=$(cat "$directory/$daemon.pid" 2>/dev/null) || continue
    kill "$pid" 2>/dev/null
    for _ in $(seq 100); do
        grep -qs '^State:.[^Z]' "/proc/$pid/status" || break # a zombie waits for its parent only
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
done
bridge=$(cat "$directory/bridge" 2>/dev/null) && ip link delete "$bridge" 2>/dev/null
rmdir /sys/fs/cgroup/*/slurm_node 2>/dev/null
exit 0
