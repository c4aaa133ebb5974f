#!/bin/bash
# Makes the fixtures of tests/certs/data/spire with a real SPIRE: make.sh SPIRE_SERVER SPIRE_AGENT DESTINATION
set -eu
server=$1 agent=$2 destination=$3
work=$(mktemp -d)
trap 'kill $pids 2>/dev/null || true; rm -rf "$work"' EXIT
pids=

# run NAME CA_KEY_TYPE PORT [UPSTREAM]: a server of its own
run() {
    local dir=$work/$1; mkdir -p "$dir"
    {
        printf 'server {\n bind_address = "127.0.0.1"\n bind_port = "%s"\n trust_domain = "spire.example"\n' "$3"
        printf ' data_dir = "%s"\n log_level = "WARN"\n socket_path = "%s/api.sock"\n' "$dir" "$dir"
        printf ' ca_key_type = "%s"\n ca_ttl = "720h"\n default_x509_svid_ttl = "24h"\n}\n' "$2"
        printf 'plugins {\n DataStore "sql" {\n  plugin_data {\n   database_type = "sqlite3"\n   connection_string = "%s/db"\n  }\n }\n' "$dir"
        printf ' NodeAttestor "join_token" {\n  plugin_data {\n  }\n }\n KeyManager "memory" {\n  plugin_data {\n  }\n }\n'
        if [ -n "${4:-}" ]; then
            printf ' UpstreamAuthority "disk" {\n  plugin_data {\n   cert_file_path = "%s.crt"\n   key_file_path = "%s.key"\n' "$4" "$4"
            [ -e "$4.roots" ] && printf '   bundle_file_path = "%s.roots"\n' "$4"
            printf '  }\n }\n'
        fi
        printf '}\n'
    } > "$dir/server.conf"
    "$server" run -config "$dir/server.conf" > "$dir/log" 2>&1 &
    pids="$pids $!"
    until [ -S "$dir/api.sock" ] && "$server" healthcheck -socketPath "$dir/api.sock" > /dev/null 2>&1; do sleep 0.2; done
}

# keep NAME CHAIN_PEM KEY_PEM: what the tests read
keep() {
    local to=$destination/$1; mkdir -p "$to"
    cp "$2" "$to/chain.pem"
    openssl pkcs8 -topk8 -nocrypt -in "$3" -out "$to/key.pem"
    "$server" bundle show -socketPath "$work/${4:-$1}/api.sock" -format spiffe > "$to/bundle.json"
    "$server" bundle show -socketPath "$work/${4:-$1}/api.sock" -format pem > "$to/bundle.pem"
    date +%s > "$to/now"
}

mint() {
    mkdir -p "$work/$1/out"
    "$server" x509 mint -socketPath "$work/$1/api.sock" -spiffeID spiffe://spire.example/identity/300 -ttl 24h -dns web.shop -write "$work/$1/out" > /dev/null
    keep "$1" "$work/$1/out/svid.pem" "$work/$1/out/key.pem"
}

# As most make a root, and as a company does: with a name, without a key usage, of other kinds of key.
openssl req -x509 -newkey rsa:2048 -nodes -keyout "$work/root.key" -out "$work/root.crt" -days 3650 -subj "/O=Example/CN=root" 2>/dev/null
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp521r1 -nodes -sha512 -keyout "$work/strong.key" -out "$work/strong.crt" -days 3650 -subj "/O=Example/CN=strong root" 2>/dev/null
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -out "$work/middle.key" 2>/dev/null
openssl req -new -key "$work/middle.key" -subj "/O=Example/CN=middle" -out "$work/middle.csr" 2>/dev/null
printf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\n' > "$work/middle.ext"
openssl x509 -req -in "$work/middle.csr" -CA "$work/strong.crt" -CAkey "$work/strong.key" -sha512 -days 3650 -extfile "$work/middle.ext" -out "$work/middle.crt" 2>/dev/null
cp "$work/strong.crt" "$work/middle.roots"
for key in root middle; do openssl pkcs8 -topk8 -nocrypt -in "$work/$key.key" -out "$work/$key.p8" && mv "$work/$key.p8" "$work/$key.key"; done

run ec ec-p256 18101; mint ec
run rsa rsa-2048 18102; mint rsa
run p384 ec-p384 18103; mint p384
run upstream ec-p256 18104 "$work/root"; mint upstream
run nested rsa-4096 18105 "$work/middle"; mint nested

# An SVID by way of an agent, whose keys may be RSA.
dir=$work/rsa
token=$("$server" token generate -socketPath "$dir/api.sock" -spiffeID spiffe://spire.example/node/a | sed -n 's/^Token: //p')
"$server" entry create -socketPath "$dir/api.sock" -parentID spiffe://spire.example/node/a -spiffeID spiffe://spire.example/identity/300 -selector unix:uid:"$(id -u)" > /dev/null
mkdir -p "$dir/agent/data"
printf 'agent {\n data_dir = "%s/agent/data"\n log_level = "WARN"\n server_address = "127.0.0.1"\n server_port = "18102"\n socket_path = "%s/agent/api.sock"\n insecure_bootstrap = true\n trust_domain = "spire.example"\n workload_x509_svid_key_type = "rsa-2048"\n}\nplugins {\n NodeAttestor "join_token" {\n  plugin_data {\n  }\n }\n KeyManager "memory" {\n  plugin_data {\n  }\n }\n WorkloadAttestor "unix" {\n  plugin_data {\n  }\n }\n}\n' "$dir" "$dir" > "$dir/agent.conf"
"$agent" run -config "$dir/agent.conf" -joinToken "$token" > "$dir/agent.log" 2>&1 &
pids="$pids $!"
mkdir -p "$dir/fetched"
until "$agent" api fetch x509 -socketPath "$dir/agent/api.sock" -write "$dir/fetched" > /dev/null 2>&1; do sleep 0.5; done
keep agent-rsa "$dir/fetched/svid.0.pem" "$dir/fetched/svid.0.key" rsa
