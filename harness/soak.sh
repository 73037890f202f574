#!/bin/sh
# Prints the soak test as a scenario: mixed traffic through RS-S and RS-N, for so many seconds, while a terminal moves every five of them.
#
#     harness/soak.sh 1800 > soak-1800.toml && ./run run soak-1800.toml
#
# scenarios/soak.toml is what it prints for 12 seconds. What every daemon holds of memory is printed over time by the flow `memory`, which ends
# with 1 where one grew after the first third.
set -eu
seconds=$1
every=$(( seconds / 120 + 1 ))
cat <<END
# Traffic of every kind through a relay while a terminal moves: no connection ends, nothing of those who stay where they are is lost or overtaken, and no daemon
# grows. Made by harness/soak.sh, which makes longer ones.

schema   = 1
name     = "soak"
about    = "mixed traffic through RS-S and RS-N with moves: no leak, no loss, no reordering inside a flow"
seed     = 42
captures = false

[router.apnat_a]
nat = "port-restricted"
[router.apnat_b]
nat = "symmetric"
[router.apnat_c]
nat = "symmetric"
[router.apnat_d]
nat = "symmetric"

[node]
root = { role = "dns",         at = "internet", zone = "." }
dc   = { role = "coordinator", at = "internet", zone = "dc.ntm.test", vips = "198.18.0.0/16" }
rs   = { role = "relay",       at = "internet" }
gn   = { role = "general",     at = "internet", name = "www.example.test" }
cn   = { role = "terminal",    at = "apnat_c" }
stay = { role = "terminal",    at = "apnat_d" }

[node.mn]
role  = "terminal"
wlan0 = { at = "apnat_a" }
wlan1 = { at = "apnat_b", state = "down" }

[[flow]]
id    = "switched"
probe = { from = "stay", to = "cn.dc.ntm.test", duration = "${seconds}s" }

[[flow]]
id    = "translated"
probe = { from = "stay", to = "www.example.test", duration = "${seconds}s" }

[[flow]]
id     = "general"
iperf3 = { from = "mn", to = "www.example.test", duration = "${seconds}s", rate = "20mbit" }

[[flow]]
id     = "peer"
iperf3 = { from = "mn", to = "cn.dc.ntm.test", duration = "${seconds}s", rate = "20mbit", reverse = true }

# Each line: seconds, node, kB of memory.
[[flow]]
id = "memory"

[flow.exec]
node    = "dc"
timeout = "$(( seconds + 60 ))s"
command = ["sh", "-c", '''
  at=0
  while [ \$at -lt $seconds ]; do
    sleep $every
    at=\$(( at + $every ))
    for process in /proc/[0-9]*; do
      node=\$(tr '\\0' ' ' < \$process/cmdline 2> /dev/null | sed -n 's|.*/ntm-[a-z]* .*/\\([a-z_]*\\)/ntm-[a-z]*\\.toml.*|\\1|p')
      [ -z "\$node" ] || awk -v at=\$at -v node=\$node '/^VmRSS/ { print at, node, \$2 }' \$process/status
    done
  done | awk '
    { print }
    \$1 <= $(( seconds / 3 + every )) { early[\$2] = \$3 }
    { late[\$2] = \$3 }
    END { for (node in late) { nodes++; if (late[node] > early[node] + 2048) { print node, "grew"; grown = 1 } } exit grown || nodes < 6 }
  '
''']
END
at=3
from=wlan0
to=wlan1
while [ $at -lt $(( seconds - 2 )) ]; do
    printf '\n[[at]]\ntime     = "%ss"\nhandover = { node = "mn", from = "%s", to = "%s" }\n' $at $from $to
    was=$from
    from=$to
    to=$was
    at=$(( at + 5 ))
done
cat <<'END'

[[expect]]
check = "flow.general.completed and flow.peer.completed"
fail  = "a connection did not survive the moves"

[[expect]]
check = "path.stay.cn.route == 'RS-S' and path.stay.gn.route == 'RS-N'"
fail  = "packets took another way"

[[expect]]
check = "flow.switched.out_lost == 0 and flow.switched.in_lost == 0 and flow.translated.out_lost == 0 and flow.translated.in_lost == 0"
fail  = "something of the terminal that stays was lost"

[[expect]]
check = "flow.switched.out_reordered == 0 and flow.switched.in_reordered == 0 and flow.translated.out_reordered == 0 and flow.translated.in_reordered == 0"
fail  = "a packet was overtaken by another of its flow"

[[expect]]
check = "flow.memory.exit == 0"
fail  = "a daemon held more memory at the end than after a third of the time"
END
