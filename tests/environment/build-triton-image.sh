#!/bin/bash
# Builds a Singularity image (SIF) with a real Triton Inference Server for CPUs.
#   build-triton-image.sh OUT.sif           Needs root, Apptainer, Python 3 with pip, 1 GB in /tmp.
#   build-triton-image.sh --check OUT.sif   Only says whether it is there and current.
#
# The server is the one in nvidia-pytriton's wheel, laid out as in NVIDIA's own images:
# /opt/tritonserver/{bin,lib,backends,caches}. Beside its Python backend it has the
# backends of hermes/runtime/backends, so that it serves the same model repositories as
# the Triton of `hermes install-triton`. An image that is there and was built from the
# same ingredients is left alone; one that was not is replaced in one step.
set -euo pipefail
debian=bookworm python=3.11
packages=(nvidia-pytriton==0.7.0)                           # taken apart
modules=(numpy==1.26.4 onnxruntime==1.32.0)                 # for the models and backends

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
runtime=$(realpath "$here/../../hermes/runtime")             # has the backends' sources
only_check=
if [ "${1:-}" = --check ]; then only_check=yes; shift; fi
sif=$(realpath -m "${1:?which file is to be the image?}")
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
umask 022                                                   # other users read the image
unset PYTHONPATH PYTHONHOME
die() { echo "build-triton-image.sh: $*" >&2; exit 1; }

# What the image is made of: this script (and so its versions) and the backends' sources.
ingredients=$({
    sha256sum <"${BASH_SOURCE[0]}"
    cd "$runtime" && find _batching.py _sequences.py _threads.py backends -name __pycache__ -prune -o -type f -print0 |
        sort -z | xargs -0 sha256sum
} | sha256sum | cut -d' ' -f1)

# Whether image $1 has these ingredients and a server that starts: --help goes to stderr, exit 1.
is_current() {
    [ -s "$1" ] || return 1
    local said
    said=$(apptainer -s exec --no-mount cwd "$1" /bin/sh -c \
        'cat /opt/tritonserver/ingredients; tritonserver --help' 2>&1) || true
    [[ $said == *"$ingredients"* && $said == *--model-repository* ]]
}

command -v apptainer >/dev/null || die "there is no apptainer; run install-apptainer.sh first"
if is_current "$sif"; then echo "already here: $sif"; exit 0; fi
[ -z "$only_check" ] || die "no current image at $sif"
[ "$(id -u)" = 0 ] || die "building the image needs root"
[ "$(uname -m)" = x86_64 ] || die "nvidia-pytriton's wheel is for x86_64"

# One at a time: the lock is this script itself, so that no lock file stays behind.
exec 9<"${BASH_SOURCE[0]}"
flock 9
if is_current "$sif"; then echo "already here: $sif"; exit 0; fi

command -v mmdebstrap >/dev/null || {
    apt-get -qq update
    apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends mmdebstrap >/dev/null
}
mkdir -p "$(dirname "$sif")"
new=$sif.new.$$
work=$(mktemp -d)
trap 'rm -rf "$work" "$new"' EXIT
chmod 755 "$work"
root=$work/root

# 1. Debian, from wherever this machine's own apt gets it.
source=/etc/apt/sources.list.d/debian.sources
[ -f "$source" ] || source=/etc/apt/sources.list
mmdebstrap --quiet --variant=essential --skip=check/empty \
    --include=python3-minimal,libpython$python,libpython$python-stdlib,libstdc++6,procps \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' \
    --dpkgopt=force-unsafe-io $debian "$root" "$source"
# Nothing of this machine's network set-up belongs in the image.
rm -rf "$root"/etc/apt/sources.list.d/* "$root"/etc/apt/auth.conf.d/* "$root"/etc/apt/apt.conf.d/*
: >"$root/etc/resolv.conf"

# 2. The models' modules, and Triton out of the wheel.
pip=(python3 -m pip --disable-pip-version-check --no-input -qq install --no-deps --no-compile
    --only-binary=:all: --python-version "$python" --root-user-action=ignore)
"${pip[@]}" --target "$root/usr/lib/python3/dist-packages" "${modules[@]}"
"${pip[@]}" --target "$work/wheel" "${packages[@]}"
triton=$root/opt/tritonserver
mkdir -p "$triton/repoagents"
cp -a "$work/wheel/pytriton/tritonserver/"{bin,backends,caches} "$triton/"
cp -a "$work/wheel/nvidia_pytriton.libs" "$triton/lib"
# The Python backend's stub must be that of the image's Python.
install -m755 "$work/wheel/pytriton/tritonserver/python_backend_stubs/$python/triton_python_backend_stub" \
    "$triton/backends/python/"
rm -f "$triton"/lib/libpython3-*.so.*                       # only the other stubs need it
ln -s opt/tritonserver/lib "$root/nvidia_pytriton.libs"     # where the wheel's RPATHs look
# As `hermes install-triton` lays them out.
for source in "$runtime"/backends/*/*.py; do
    backend=$triton/backends/$(basename "$(dirname "$source")")
    install -D -m644 -t "$backend" "$source"
    for shared in batching sequences threads; do
        install -m644 "$runtime/_$shared.py" "$backend/hermes_$shared.py"
    done
done
echo "$ingredients" >"$triton/ingredients"
chmod -R a+rX "$triton"
chmod a+x "$triton/bin/tritonserver"

# 3. The image.
cat >"$work/triton.def" <<'DEF'
Bootstrap: localimage
From: root

%environment
    export PATH=/opt/tritonserver/bin:$PATH
    export ORT_DISABLE_TELEMETRY=1
    export PYTHONNOUSERSITE=1

%runscript
    exec "$@"
DEF
# gzip level 1: 3 s instead of 24 s, for a tenth more bytes.
(cd "$work" && TMPDIR=$work apptainer -q build \
    --mksquashfs-args '-comp gzip -Xcompression-level 1' "$new" triton.def)
is_current "$new" || die "the new image's tritonserver does not start"
apptainer -s exec --no-mount cwd "$new" python3 -c 'import numpy, onnxruntime' ||
    die "the new image's onnxruntime does not load"
mv -f "$new" "$sif"
ls -lh "$sif"
