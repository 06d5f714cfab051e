#!/bin/sh
# Runs in a minimal chroot of a Debian release, in a copy of the checkout: a newcomer's first commands.
# For each step it leaves /results/NAME.{status,out,err,ms}; test_setup_releases.py judges them.
set -u
# shellcheck source=/dev/null
. /machine/env

step() {
    name=$1
    shift
    begin=$(date +%s%N)
    "$@" >"/results/$name.out" 2>"/results/$name.err"
    echo $? >"/results/$name.status"
    echo $((($(date +%s%N) - begin) / 1000000)) >"/results/$name.ms"
    echo "$name: status $(cat "/results/$name.status") after $(cat "/results/$name.ms") ms"
}

as_newcomer() { setpriv --reuid newcomer --regid newcomer --clear-groups env HOME=/home/newcomer "$@"; }

cd /checkout || exit 1
export HOME=/root
useradd --create-home newcomer

step user-without-python as_newcomer VDPALAB_VENV=/home/newcomer/venv ./vdpalab --version
step help ./vdpalab --help
step again ./vdpalab --version
step doctor-before ./vdpalab doctor --json
step user-without-sudo as_newcomer ./vdpalab setup
step setup env SUDO_USER=newcomer ./vdpalab setup
step setup-again env SUDO_USER=newcomer ./vdpalab setup
step doctor ./vdpalab doctor --json
step doctor-user as_newcomer ./vdpalab doctor --json
git init --quiet . && git add .
step unit ./vdpalab test unit
step plan ./vdpalab plan net-vp_vdpa-vhost_vdpa-iperf3
