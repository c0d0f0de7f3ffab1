#!/usr/bin/env bash
# Ends what start-condor.sh started in a directory, and unmounts what it mounted.
directory=$(cd "$1" && pwd) || exit 1
root=$directory/root
if pid=$(cat "$root/run/condor/master.pid" 2>/dev/null); then
    timeout 10 chroot "$root" condor_rm -all >/dev/null 2>&1
    kill -QUIT "$pid" 2>/dev/null # the daemons end at once, and their jobs with them
    for _ in $(seq 150); do
        grep -qs '^State:.[^Z]' "/proc/$pid/status" || break # a zombie waits for its parent only
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
    rm -f "$root/run/condor/master.pid"
fi
cut -d' ' -f2 /proc/self/mounts | grep -F "$root/" | sort -r | while IFS= read -r mounted; do
    mounted=$(printf '%b' "$mounted") # a space is \040 there
    umount "$mounted" || umount -l "$mounted"
done
exit 0
