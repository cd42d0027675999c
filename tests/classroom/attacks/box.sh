#!/bin/sh
# What a container gives, by what every Linux has: sh box.sh PYTHON SUBMISSIONS HIDDEN OUT SCRATCH
# No network, processes and mounts of its own, a root that is read-only, a small folder in memory
# for what is temporary, limits, no capabilities. SUBMISSIONS is read, OUT gets the marks.
exec unshare --user --map-root-user --net --pid --fork --kill-child --mount --mount-proc --ipc \
    --uts sh -ec '
    mount --bind "$4" "$4"
    mount -t tmpfs -o size=256m,nr_inodes=20k,mode=700 tmpfs "$5"
    mount -o remount,bind,ro /
    cd "$2"
    export TMPDIR="$5" HOME="$5" PYTHONDONTWRITEBYTECODE=1
    exec prlimit --nproc=128 --as=17179869184 --cpu=1800 --fsize=67108864 --core=0 --nofile=512 \
        setpriv --no-new-privs --bounding-set=-all --inh-caps=-all \
        "$1" -m perakit grade ./*.py --hidden "$3" --csv "$4/marks.csv" --json "$4/marks.json"
' box "$@"
