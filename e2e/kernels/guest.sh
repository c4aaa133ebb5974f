#!/bin/sh
# Runs in a virtual machine: countersign-wg on one side of a cable, the kernel's WireGuard on the other; then the
# kernel's in the manager's hands, and the eBPF programs. Every check is a line `ok NAME figures` or `FAIL NAME why`; the last line says how many there were.
#
# In each pair of namespaces, k is the kernel's side and c is ours:
#   cable  u    192.0.2.1, fd00:9::1      192.0.2.2, fd00:9::2     ports 51820 and 51821
#   tunnel      wg0 10.77.0.1, fd77::1    csNAME 10.77.0.2, fd77::2

umask 077
. /settings
SECONDS_EACH=${SECONDS_EACH:-3}
# Pings while rekeys are waited for: in the long run a hundred a second.
PAUSE=0.1
[ "$REKEYS" -lt 3 ] || PAUSE=0.01
checks=0

# ---- what is reported ----

# check NAME FUNCTION ARGUMENTS...: the function's last line is the figure, or the reason.
check() {
    name=$1
    shift
    # Not in a condition: there `set -e` would mean nothing.
    (set -e; "$@") > "/tmp/check-$name" 2>&1
    code=$?
    checks=$((checks + 1))
    if [ $code = 0 ]; then
        echo "ok $name $(tail -n 1 "/tmp/check-$name")"
    else
        sed 's/^/    /' "/tmp/check-$name"
        echo "FAIL $name $(tail -n 1 "/tmp/check-$name")"
    fi
}

fail() {
    echo "$*"
    exit 1
}

# within SECONDS COMMAND...: until it succeeds.
within() {
    end=$(($(date +%s) + $1))
    shift
    until "$@" > /tmp/within 2>&1; do
        if [ "$(date +%s)" -ge $end ]; then
            cat /tmp/within
            fail "not in time: $*"
        fi
        sleep 0.1
    done
}

# ---- the two sides ----

on() { # NAMESPACE COMMAND...
    local namespace="$1"
    shift
    nsenter --net="/run/netns/$namespace" "$@"
}

device() { case $1 in k*) echo wg0 ;; *) echo "cs${1#c}" ;; esac; }
other() { case $1 in k*) echo "c${1#k}" ;; *) echo "k${1#c}" ;; esac; }
number() { case $1 in k*) echo 1 ;; *) echo 2 ;; esac; }
port() { case $1 in k*) echo 51820 ;; *) echo 51821 ;; esac; }
public() { wg pubkey < "/tmp/key-$1"; }

# pair NAME: both namespaces, the cable, and a device on each side that knows its own key and port.
pair() {
    ip netns add "k$1"
    ip netns add "c$1"
    ip link add u netns "k$1" type veth peer name u netns "c$1"
    ip -n "k$1" link add wg0 type wireguard
    on "c$1" countersign-wg --foreground --log-level debug "cs$1" > "/tmp/log-c$1" 2>&1 &
    within 120 test -S "/run/wireguard/cs$1.sock"
    within 120 wg show "cs$1"
    for side in "k$1" "c$1"; do
        host=$(number "$side")
        ip -n "$side" link set lo up
        ip -n "$side" link set u up
        ip -n "$side" addr add "192.0.2.$host/24" dev u
        ip -n "$side" addr add "fd00:9::$host/64" dev u nodad
        wg genkey > "/tmp/key-$side"
        on "$side" wg set "$(device "$side")" private-key "/tmp/key-$side" listen-port "$(port "$side")"
    done
}

# introduce SIDE [SETTINGS...]: the other side as its only peer.
introduce() {
    local side="$1" there host
    shift
    there=$(other "$side")
    host=$(number "$there")
    on "$side" wg set "$(device "$side")" peer "$(public "$there")" \
        allowed-ips "10.77.0.$host/32,fd77::$host/128" "$@"
}

# rise SIDE: the device up, with its addresses.
rise() {
    local dev host
    dev=$(device "$1")
    host=$(number "$1")
    ip -n "$1" addr add "10.77.0.$host/24" dev "$dev"
    ip -n "$1" addr add "fd77::$host/64" dev "$dev" nodad
    ip -n "$1" link set "$dev" up
}

# linked NAME [FAMILY]: a pair that knows each other, over the cable's IPv4 or IPv6.
linked() {
    pair "$1"
    for side in "k$1" "c$1"; do
        there=$(other "$side")
        host=$(number "$there")
        at="192.0.2.$host"
        [ "$2" != 6 ] || at="[fd00:9::$host]"
        introduce "$side" endpoint "$at:$(port "$there")"
        rise "$side"
    done
}

away() {
    for pid in $(ip netns pids "k$1") $(ip netns pids "c$1"); do kill "$pid"; done
    ip netns del "k$1"
    ip netns del "c$1"
}

# pings SIDE ARGUMENTS...: to the other side; all must be answered.
pings() {
    local side="$1" host
    shift
    host=$(number "$(other "$side")")
    on "$side" ping -q -W 5 "$@" "10.77.0.$host"
}
pings6() {
    local side="$1" host
    shift
    host=$(number "$(other "$side")")
    on "$side" ping -6 -q -W 5 "$@" "fd77::$host"
}

# field SIDE WHAT: what wg(8) says of the one peer.
field() { on "$1" wg show "$(device "$1")" "$2" | cut -f 2; }
is_not() { [ "$(field "$1" "$2")" != "$3" ]; }
is() { [ "$(field "$1" "$2")" = "$3" ]; }

# listen NAME: notes every handshake initiation on the cable.
listen() {
    # Of UDP over IPv6, tcpdump's `udp[…]` knows nothing. 156: the message's 148 bytes, and UDP's header.
    on "k$1" tcpdump -Z root -n -l --immediate-mode -i u \
        '(udp[8] = 1 and udp[4:2] = 156) or (ip6[6] = 17 and ip6[48] = 1 and ip6[44:2] = 156)' \
        > "/tmp/begun-$1" 2> "/tmp/dump-$1" &
    within 120 grep -q 'listening on' "/tmp/dump-$1"
}
begun() { grep -c "IP6* [0-9a-f.:]*[.:]$(number "$2")\.$(port "$2") >" "/tmp/begun-$1"; }

# ---- the checks ----

# handshake NAME FAMILY SIDE: that side begins, packets of both families pass, and it was that side.
handshake() {
    linked "$1" "$2"
    listen "$1"
    pings "$3" -c 3
    pings6 "$3" -c 3
    pings "$(other "$3")" -c 3
    pings6 "$(other "$3")" -c 3
    pings "$3" -c 3 -s 1392 -M "do"
    is_not "k$1" latest-handshakes 0
    is_not "c$1" latest-handshakes 0
    within 60 test -s "/tmp/begun-$1"
    first=$(begun "$1" "$3") || fail "not begun by $3: $(cat "/tmp/begun-$1")"
    second=$(begun "$1" "$(other "$3")") && fail "also begun by the other: $(cat "/tmp/begun-$1")"
    away "$1"
    echo "initiations: $first"
}

# stream FROM TO ADDRESS ARGUMENTS...: iperf3; prints the receiver's line.
stream() {
    from=$1
    to=$2
    address=$3
    shift 3
    on "$to" iperf3 -s -1 > /tmp/iperf-server 2>&1 &
    server=$!
    # It fails at once until the server listens.
    within 120 on "$from" iperf3 -c "$address" -f m --connect-timeout 5000 "$@"
    cp /tmp/within /tmp/iperf-client
    wait $server
    awk '/receiver/ { line = $7 " " $8 ($9 == "receiver" ? """" : " " $11 " " $12) } END { print line }' /tmp/iperf-client
}

tcp() {
    passed=$(stream "$@" -t "$SECONDS_EACH" || echo 0)
    [ "${passed%%[. ]*}" -ge 1 ] || fail "nothing passed: $passed"
    echo "$passed"
}

# Some loss is any network's right; a rate that the slowest guest can carry loses next to nothing.
udp() {
    passed=$(stream "$@" -u -b 10M -l 1300 -t "$SECONDS_EACH" || echo "0 (100%)")
    share=${passed##*(}
    [ "${share%%[!0-9]*}" -lt 1 ] || fail "lost: $passed"
    echo "$passed"
}

# A preshared key, changed under pings on both sides. Then sessions are made anew: with the key, and without.
preshared() {
    linked psk
    pings kpsk -c 3
    pings kpsk -c 300 -i 0.01 > /tmp/psk-pings &
    ping=$!
    wg genpsk > /tmp/psk
    introduce kpsk preshared-key /tmp/psk
    introduce cpsk preshared-key /tmp/psk
    wait $ping || fail "lost while it changed: $(grep transmitted /tmp/psk-pings)"
    before=$(field kpsk latest-handshakes)
    again
    pings kpsk -c 10 -i 0.1
    is_not kpsk latest-handshakes "$before"
    before=$(field kpsk latest-handshakes)
    wg genpsk > /tmp/psk2
    introduce cpsk preshared-key /tmp/psk2
    again
    pings kpsk -c 3 -W 1 && fail "passes with another key on one side"
    introduce kpsk preshared-key /tmp/psk2
    within 120 pings kpsk -c 1 -W 1
    away psk
    grep transmitted /tmp/psk-pings
}

after() { [ "$(date +%s)" -gt "$1" ]; }
# Handshakes are told apart by their second. The kernel forgets its sessions when its device goes down.
again() {
    within 5 after "$before"
    ip -n kpsk link set wg0 down
    ip -n kpsk link set wg0 up
}

# Another preshared key on each side: nothing passes in either direction, and neither claims a session.
wrong() {
    pair wrong
    for side in kwrong cwrong; do
        there=$(other "$side")
        wg genpsk > "/tmp/psk-$side"
        introduce "$side" preshared-key "/tmp/psk-$side" endpoint "192.0.2.$(number "$there"):$(port "$there")"
        rise "$side"
        listen_once wrong
    done
    pings kwrong -c 3 -W 1 && fail "passes from the kernel"
    pings cwrong -c 3 -W 1 && fail "passes to the kernel"
    is kwrong latest-handshakes 0
    is cwrong latest-handshakes 0
    begun wrong kwrong && begun wrong cwrong || fail "not both have tried: $(cat /tmp/begun-wrong)"
    # It was the key: with the same on both sides they talk.
    introduce kwrong preshared-key /tmp/psk-cwrong
    within 120 pings kwrong -c 1 -W 1
    away wrong
    echo "0 passed"
}
listen_once() { [ -e "/tmp/begun-$1" ] || listen "$1"; }

# roam WHO: that side changes its port, then its address; the other follows, and goes on sending by itself.
roam() {
    who=$1
    peer=$(other "$who")
    linked "${who#?}"
    pings "$who" -c 3
    on "$who" wg set "$(device "$who")" listen-port 51999
    pings "$who" -c 100 -i 0.01
    is "$peer" endpoints "192.0.2.$(number "$who"):51999"
    pings "$peer" -c 100 -i 0.01
    ip -n "$who" addr del "192.0.2.$(number "$who")/24" dev u
    ip -n "$who" addr add 192.0.2.77/24 dev u
    within 120 pings "$who" -c 1 -W 1
    is "$peer" endpoints "192.0.2.77:51999"
    pings "$peer" -c 100 -i 0.01
    away "${who#?}"
    echo "$(number "$who") -> 192.0.2.77:51999"
}

# keepalive SIDE: no packet of anybody's, no address: the interval alone makes the session.
keepalive() {
    pair "${1#?}"
    there=$(other "$1")
    introduce "$there"
    ip -n "$there" link set "$(device "$there")" up
    introduce "$1" endpoint "192.0.2.$(number "$there"):$(port "$there")" persistent-keepalive 1
    ip -n "$1" link set "$(device "$1")" up
    within 120 is_not "$1" latest-handshakes 0
    within 120 is_not "$there" latest-handshakes 0
    is_not "$there" endpoints "(none)"
    away "${1#?}"
    echo "a session without a packet"
}

# take_over: another process of ours goes on with device, sockets and session under pings.
take_over() {
    linked over
    pings cover -c 3
    before=$(field kover latest-handshakes)
    pings kover -c 500 -i 0.01 > /tmp/over-pings &
    ping=$!
    old=$(ip netns pids cover)
    sleep 1
    on cover countersign-wg --foreground --take-over csover > /tmp/log-cover2 2>&1 &
    within 120 grep -q ready /tmp/log-cover2
    within 120 test ! -d "/proc/$(echo "$old" | head -n 1)"
    wait $ping || fail "lost: $(grep transmitted /tmp/over-pings)"
    grep -q ' 0% packet loss' /tmp/over-pings || fail "lost: $(grep transmitted /tmp/over-pings)"
    is kover latest-handshakes "$before" || fail "another handshake"
    away over
    grep transmitted /tmp/over-pings
}

# vxlan CHECKSUM: Ethernet inside the tunnel, with and without the outer checksum.
vxlan() {
    linked vx
    for side in kvx cvx; do
        host=$(number "$side")
        ip -n "$side" link add v type vxlan id 7 local "10.77.0.$host" remote "10.77.0.$((3 - host))" \
            dstport 4789 dev "$(device "$side")" "$1"
        ip -n "$side" addr add "10.88.0.$host/24" dev v
        ip -n "$side" link set v up
    done
    within 120 on kvx ping -q -c 1 -W 1 10.88.0.2
    on kvx ping -q -c 3 -W 5 -s 1342 -M "do" 10.88.0.2
    tcp kvx cvx 10.88.0.2
    to=$(tcp cvx kvx 10.88.0.1 | tail -n 1)
    from=$(tcp kvx cvx 10.88.0.2 | tail -n 1)
    away vx
    echo "to the kernel $to, from it $from"
}

# What the kernel does for a TUN device: uncut UDP since 6.2, uncut packets in UDP tunnels since 6.17.
offloads() {
    line=$(grep -o 'Features {.*}' "/tmp/log-c$1" | head -n 1)
    [ -n "$line" ] || fail "the device's features are not logged"
    case $line in *"tso: true"*) ;; *) fail "no TSO: $line" ;; esac
    release=$(uname -r)
    minor=${release#*.}
    minor=$((${release%%.*} * 1000 + ${minor%%.*}))
    uso=false
    tunnel=false
    [ $minor -lt 6002 ] || uso=true
    [ $minor -lt 6017 ] || tunnel=true
    case $line in *"uso: $uso"*) ;; *) fail "expected uso: $uso; $line" ;; esac
    case $line in *"tunnel: $tunnel"*) ;; *) fail "expected tunnel: $tunnel; $line" ;; esac
    echo "$line"
}

# rekeys_begin SIDE: pings as long as it takes, in rounds that each wait for their last answer.
rekeys_begin() {
    name=${1#?}
    linked "$name"
    listen "$name"
    pings "$1" -c 3
    begun "$name" "$1"
    field "k$name" latest-handshakes > "/tmp/first-$name"
    (
        while [ ! -e "/tmp/stop-$name" ]; do pings "$1" -c 50 -i $PAUSE || true; done
        touch "/tmp/stopped-$name"
    ) > "/tmp/rounds-$name" 2>&1 &
    # The sessions there are go on; the next handshake already needs the key.
    wg genpsk > "/tmp/psk-$name"
    introduce "k$name" preshared-key "/tmp/psk-$name"
    introduce "c$name" preshared-key "/tmp/psk-$name"
    echo "begun by $1, a preshared key since"
}
rekeyed() { [ "$(begun "${1#?}" "$1")" -gt "$REKEYS" ]; }
answered() { # NAME: a sum over the rounds
    awk '/transmitted/ { sent += $1; got += $4 } END { print sent + 0, got + 0 }' "/tmp/rounds-$1"
}
rekeys_end() {
    name=${1#?}
    within $((REKEYS * 150 + 60)) rekeyed "$1"
    # The response may still be on its way.
    within 60 is_not "k$name" latest-handshakes "$(cat "/tmp/first-$name")"
    # Three more rounds on the new session.
    rounds=$(grep -c transmitted "/tmp/rounds-$name")
    within 60 more_rounds "$name" $((rounds + 3))
    touch "/tmp/stop-$name"
    within 60 test -e "/tmp/stopped-$name"
    set -- "$1" $(answered "$name")
    [ "$2" = "$3" ] || fail "$(($2 - $3)) of $2 pings lost; $(cat "/tmp/begun-$name")"
    by_peer=$(begun "$name" "$(other "$1")") || true
    echo "initiations $(begun "$name" "$1") by this side, $by_peer by the other; $2 pings, 0 lost"
}
more_rounds() { [ "$(grep -c transmitted "/tmp/rounds-$1")" -ge "$2" ]; }

# The manager's tests with the kernel's WireGuard, as cargo has built them: which there are, and one of them.
managed_tests() {
    /managed/kernel --list --ignored --format terse | sed -n 's/: test$//p' > /tmp/managed-tests
    grep -c . /tmp/managed-tests
}
managed() {
    cd /tmp
    COUNTERSIGN_WG=/usr/bin/countersign-wg timeout 600 /managed/kernel --ignored --exact --nocapture "$1" \
        > "/tmp/managed-$1" 2>&1 || { cat "/tmp/managed-$1"; fail "see above"; }
    grep -o '1 passed;.*finished in .*' "/tmp/managed-$1" | sed 's/.*finished in //'
}

# The kernel has complained about nothing.
kernel_log() {
    dmesg | grep -E 'WARNING:|BUG:|Oops' && fail "see above"
    echo "no warning"
}

# bpf NAME: a test program of the eBPF loader, as cargo has built it. 6.1 verifies 51,102 instructions for one
# endpoint, where this machine's kernel has a budget of 40,000; a kernel gives up at a million.
bpf() {
    cd /tmp
    CI=true COUNTERSIGN_VERIFIER_BUDGET=60000 timeout 900 "/tests/$1" --test-threads=1 --nocapture
}

echo "kernel $(uname -r), $(nproc) cores"
# Several checks at once fill the one queue of a core.
echo 20000 > /proc/sys/net/core/netdev_max_backlog
ip link set lo up

check rekey-kernel-begins rekeys_begin krk
check rekey-ours-begins rekeys_begin crc
check handshake-kernel-begins handshake hk 4 khk
check handshake-ours-begins handshake hc 4 chc
check handshake-ipv6-kernel-begins handshake h6k 6 kh6k
check handshake-ipv6-ours-begins handshake h6c 6 ch6c
check tun-offloads offloads hk
check preshared-key preshared
check wrong-preshared-key wrong
check roaming-ours roam cro
check roaming-kernel roam krok
check keepalive-ours keepalive cka
check keepalive-kernel keepalive kkak
check take-over take_over

linked it
check tcp-from-kernel tcp kit cit 10.77.0.2
check tcp-to-kernel tcp cit kit 10.77.0.1
check tcp6-from-kernel tcp kit cit fd77::2
check tcp6-to-kernel tcp cit kit fd77::1
check udp-from-kernel udp kit cit 10.77.0.2
check udp-to-kernel udp cit kit 10.77.0.1
away it
check vxlan-noudpcsum vxlan noudpcsum
check vxlan-udpcsum vxlan udpcsum

check managed-tests managed_tests
for test in $(cat /tmp/managed-tests); do check "managed-$test" managed "$test"; done

for test in /tests/*; do
    check "ebpf-${test##*/}" bpf "${test##*/}"
    grep -E '^test |verified instructions|^test result:' "/tmp/check-ebpf-${test##*/}" | sed 's/^/    /'
done

check rekeys-of-kernel rekeys_end krk
check rekeys-of-ours rekeys_end crc
check kernel-log kernel_log
echo "end $checks"
