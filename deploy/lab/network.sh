# The lab's network: sourced by quickstart.sh.
#
#                      vf-office  vf-carrier  vf-stranger  vf-admin      outside, each by its own link
#                          \          \          /           /
#   host -- 10.98.0.0/24 ---+------ vf-net, the router -----+
#               |                        |
#        vf-controller      198.18.0.0/24, 2001:db8:1::/64   eth0 of every node
#                             10.20.0.0/24, fd00:20::/64      eth1 of every node, not routed
#
# Node number i of 50 has host part 10+i in each of its networks.

OUTSIDE="office carrier stranger admin"
CONTROLLER_IP=10.98.0.1
HOST_LINK=vf-host
# Other tools may use the prefix too.
OUR_NAMESPACES="vf-(net|controller|office|carrier|stranger|admin|(sip|pbx|http|all)[0-9]+)"

# The addresses of an outside host: the first one is its own.
outside_v4() {
    case $1 in
        office) echo 203.0.113.9 ;;
        carrier) echo 192.0.2.5 192.0.2.25 ;;
        stranger) echo 198.51.100.66 198.51.100.77 ;;
        admin) echo 198.51.100.10 ;;
    esac
}
outside_v6() {
    case $1 in
        office) echo 2001:db8:10::9 ;;
        carrier) echo 2001:db8:20::5 2001:db8:20::25 ;;
        stranger) echo 2001:db8:66::66 2001:db8:66::77 ;;
        admin) echo 2001:db8:ad::10 ;;
    esac
}

# Runs a command in a network namespace.
in_net() {
    local ns=$1
    shift
    nsenter --net="/run/netns/$ns" -- "$@"
}

# Reads `ip` commands on standard input and runs them in a network namespace.
ip_batch() { ip -n "$1" -batch -; }

# Duplicate address detection would keep every new IPv6 address unusable for a second.
# Interfaces made later take the defaults.
quiet_ipv6() {
    in_net "$1" sh -c 'cd /proc/sys/net/ipv6/conf &&
        for key in accept_dad accept_ra; do echo 0 >default/$key; echo 0 >all/$key; done'
}

network_up() {
    local host ns name index

    { echo "netns add vf-net"
      echo "netns add vf-controller"
      for host in $OUTSIDE; do echo "netns add vf-$host"; done
      cut -f1 "$STATE/nodes" | sed 's/^/netns add vf-/'
    } | ip -batch -
    for ns in vf-net vf-controller $(printf 'vf-%s ' $OUTSIDE) $(cut -f1 "$STATE/nodes" | sed 's/^/vf-/'); do
        quiet_ipv6 "$ns"
    done
    in_net vf-net sh -c 'echo 1 >/proc/sys/net/ipv4/ip_forward
        echo 1 >/proc/sys/net/ipv6/conf/all/forwarding'

    { echo "link set lo up"
      for name in public cluster mgmt; do
          echo "link add $name type bridge"
          echo "link set $name up"
      done
      echo "addr add 198.18.0.254/24 dev public"
      echo "addr add 2001:db8:1::fe/64 dev public nodad"
      echo "addr add 10.98.0.2/24 dev mgmt"
      echo "link add controller type veth peer name eth0 netns vf-controller"
      echo "link set controller master mgmt up"
      for host in $OUTSIDE; do router_link "$host"; done
      while IFS=$'\t' read -r name index _; do
          echo "link add p$index type veth peer name eth0 netns vf-$name"
          echo "link set p$index master public up"
          echo "link add c$index type veth peer name eth1 netns vf-$name"
          echo "link set c$index master cluster up"
      done <"$STATE/nodes"
    } | ip_batch vf-net

    ip link add "$HOST_LINK" type veth peer name host netns vf-net
    ip addr add 10.98.0.254/24 dev "$HOST_LINK"
    ip link set "$HOST_LINK" up
    ip -n vf-net link set host master mgmt up

    ip_batch vf-controller <<EOF
link set lo up
link set eth0 up
addr add $CONTROLLER_IP/24 dev eth0
route add default via 10.98.0.2
EOF
    for host in $OUTSIDE; do outside_host "$host" | ip_batch "vf-$host"; done
    while IFS=$'\t' read -r name index _; do
        node_addresses "$index" | ip_batch "vf-$name"
    done <"$STATE/nodes"
}

# The router's end of an outside host's link.
router_link() {
    local host=$1 address
    echo "link add o-$host type veth peer name eth0 netns vf-$host"
    echo "link set o-$host up"
    echo "addr add 100.64.0.1/32 dev o-$host"
    echo "addr add fe80::1/64 dev o-$host nodad"
    for address in $(outside_v4 "$host"); do echo "route add $address/32 dev o-$host"; done
    for address in $(outside_v6 "$host"); do echo "route add $address/128 dev o-$host"; done
}

outside_host() {
    local host=$1 address
    echo "link set lo up"
    echo "link set eth0 up"
    for address in $(outside_v4 "$host"); do echo "addr add $address/32 dev eth0"; done
    for address in $(outside_v6 "$host"); do echo "addr add $address/128 dev eth0 nodad"; done
    # The kernel prefers the address added last for IPv6, the first for IPv4: say which.
    echo "route add default via 100.64.0.1 dev eth0 onlink src $(outside_v4 "$host" | cut -d' ' -f1)"
    echo "route add ::/0 via fe80::1 dev eth0 src $(outside_v6 "$host" | cut -d' ' -f1)"
}

node_addresses() {
    local host=$((10 + $1))
    cat <<EOF
link set lo up
link set eth0 up
link set eth1 up
addr add 198.18.0.$host/24 dev eth0
addr add 2001:db8:1::$host/64 dev eth0 nodad
addr add 10.20.0.$host/24 dev eth1
addr add fd00:20::$host/64 dev eth1 nodad
route add default via 198.18.0.254
route add ::/0 via 2001:db8:1::fe
EOF
}

# Each node has mounts of its own, with an empty /run (the xtables lock is there, and a node
# must not wait for another's), and its own host name. Both stay alive by a bind mount.
isolate_nodes() {
    local name
    mkdir -p "$STATE/ns"
    mount --bind "$STATE/ns" "$STATE/ns"
    mount --make-private "$STATE/ns"
    while IFS=$'\t' read -r name _; do
        : >"$STATE/ns/$name.mnt"
        : >"$STATE/ns/$name.uts"
        unshare --mount="$STATE/ns/$name.mnt" --uts="$STATE/ns/$name.uts" --propagation slave \
            sh -c 'mount -t tmpfs -o mode=755 tmpfs /run && echo "$1" >/proc/sys/kernel/hostname' sh "$name"
    done <"$STATE/nodes"
}

# Runs a command on a node, as its agent would: its network, mounts, host name, iptables.
on_node() {
    local name=$1
    shift
    nsenter --net="/run/netns/vf-$name" --mount="$STATE/ns/$name.mnt" --uts="$STATE/ns/$name.uts" -- \
        env "PATH=$(tool_path "$(node_field "$name" backend)")" "$@"
}

# With `orphans`, also ends every process in the namespaces.
network_down() {
    local file ns pid
    # The mounts of namespaces first, then the folder that is mounted on itself.
    awk -v ns="$STATE/ns" 'index($5, ns) == 1 { print $5 }' /proc/self/mountinfo | sort -r |
        while read -r file; do umount "$file"; done
    if ip link show "$HOST_LINK" >/dev/null 2>&1; then ip link del "$HOST_LINK"; fi
    for ns in $(ip netns list | cut -d' ' -f1 | grep -Ex "$OUR_NAMESPACES" || true); do
        # Without the state folder there are no records of the processes.
        if [ "$1" = orphans ]; then
            for pid in $(ip netns pids "$ns"); do kill "$pid" 2>/dev/null || true; done
        fi
        ip netns del "$ns"
    done
}
