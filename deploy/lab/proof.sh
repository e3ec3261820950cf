# The proof by real packets: sourced by quickstart.sh.

# ROLE PORT PROTOCOL SOURCE...: the sources that reach the port on a node with the role, or on any
# node. A cluster member reaches every port (trust: full).
EXPECTED="sip 5060 udp office carrier
sip 5060 tcp office carrier
sip 5061 tcp office carrier
sip 5061 udp
sip 5050 udp office carrier
pbx 5050 udp office carrier
pbx 10000 udp office carrier stranger admin relay
pbx 20000 udp office carrier stranger admin relay
pbx 4000 udp office carrier stranger admin relay
pbx 5999 udp office carrier stranger admin relay
pbx 20001 udp
http 443 tcp office carrier admin
http 80 tcp office carrier admin
http 69 udp office carrier
jabber 5222 tcp office carrier
jabber 5269 tcp
any 22 tcp admin
any 25 tcp relay
any 11211 tcp
any 3306 tcp
any 8443 tcp
any 0 ping office carrier stranger admin relay"

# WHO NAMESPACE IPV4 IPV6
SOURCES="office vf-office 203.0.113.9 2001:db8:10::9
carrier vf-carrier 192.0.2.5 2001:db8:20::5
stranger vf-stranger 198.51.100.66 2001:db8:66::66
denied vf-stranger 198.51.100.77 2001:db8:66::77
admin vf-admin 198.51.100.10 2001:db8:ad::10
relay vf-carrier 192.0.2.25 2001:db8:20::25"

# The nodes to try: the first of each role; where all nodes are alike, the first of each
# backend.
proof_nodes() {
    if [ "$(cut -f3 "$STATE/nodes" | sort -u | wc -l)" -gt 1 ]; then
        sort -s -u -t"$(printf '\t')" -k3,3 "$STATE/nodes" | sort -n -t"$(printf '\t')" -k2,2
    else
        sort -s -u -t"$(printf '\t')" -k4,4 "$STATE/nodes" | sort -n -t"$(printf '\t')" -k2,2
    fi
}

# Lines for `packets probe`.
proof_plan() {
    local name index roles role port kind allowed who ns v4 v6 expect peer
    proof_nodes | while IFS=$'\t' read -r name index roles _; do
        peer=$(awk -F'\t' -v name="$name" '$1 != name { print $1, $2; exit }' "$STATE/nodes")
        while read -r role port kind allowed; do
            case ",$roles,any," in *",$role,"*) ;; *) continue ;; esac
            while read -r who ns v4 v6; do
                case " $allowed " in *" $who "*) expect=open ;; *) expect=closed ;; esac
                echo "$who $ns $v4 $name 198.18.0.$((10 + index)) $kind $port $expect"
                echo "$who $ns $v6 $name 2001:db8:1::$((10 + index)) $kind $port $expect"
            done <<<"$SOURCES"
            if [ -n "$peer" ]; then
                echo "cluster vf-${peer% *} - $name 10.20.0.$((10 + index)) $kind $port open"
                echo "cluster vf-${peer% *} - $name fd00:20::$((10 + index)) $kind $port open"
            fi
        done <<<"$EXPECTED"
    done
}

prove() {
    proof_plan >"$STATE/plan"
    "$BIN/packets" probe "$STATE/plan"
}
