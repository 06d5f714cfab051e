# shellcheck shell=dash disable=SC2034
# What the inits of L1 and L2 share. Runs in busybox sh, where the applets need no exec and the builtins no fork:
# under two levels of TCG every fork is felt.

# Where QEMU's -fw_cfg name=opt/vdpalab/... shows; read in place, so that a restored machine sees its new run's keys.
fw_cfg=/sys/firmware/qemu_fw_cfg/by_name/opt/vdpalab

say() {
    echo "vdpalab: $*" >/dev/console
}

# lab.name=NAME and lab.mgmt=MAC of the kernel command line; sets the host name and $mgmt.
read_cmdline() {
    name=vdpalab mgmt=''
    read -r words </proc/cmdline
    for word in $words; do
        case $word in
            lab.name=*) name=${word#*=} ;;
            lab.mgmt=*) mgmt=${word#*=} ;;
        esac
    done
    echo "$name" >/proc/sys/kernel/hostname
}

# Sets $nic to the interface whose MAC is $mgmt. By MAC, because the order of the NICs is the scenario's business.
find_management_nic() {
    for path in /sys/class/net/*; do
        nic=${path##*/}
        read -r mac <"$path/address" && [ "$mac" = "$mgmt" ] && return
    done
    nic=''
    say "no interface has the MAC lab.mgmt=$mgmt"
}

# Whether a socket listens on TCP port 22 of all IPv4 addresses (state 0A, see proc_net_tcp in the kernel's docs).
listening() {
    while read -r _ address _ state _; do
        [ "$address $state" = '00000000:0016 0A' ] && return
    done </proc/net/tcp
    return 1
}

# The one line that the lab waits for on the console; what it would miss is said before it.
announce() {
    [ -e "$fw_cfg/authorized_keys/raw" ] || say 'no authorized_keys in fw_cfg: nobody can log in'
    say 'sshd ready'
}

# A root shell on the serial console when somebody presses Enter; silent until then, so that the log stays clean.
console_shell() {
    exec <>/dev/ttyS0 >&0 2>&0
    while read -r _; do
        setsid -c "$1" -l
    done
}

# The rest of process 1's life: reap whatever is orphaned, power off on SIGTERM, reboot on ctrl-alt-del.
reap() {
    trap 'poweroff -f' TERM
    trap 'reboot -f' INT
    echo 0 >/proc/sys/kernel/ctrl-alt-del
    while :; do
        wait
        # Reached when no child is left, or by a trap.
        sleep 3600 &
    done
}
