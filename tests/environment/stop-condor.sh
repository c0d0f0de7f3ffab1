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
for mounted in /dev /proc; do
    mountpoint -q "$root$mounted" && { umount "$root$mounted" || umount -l "$root$mounted"; }
done
exit 0
