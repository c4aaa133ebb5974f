#!/bin/bash
# Makes the certificates of this directory that rcgen cannot: keys and signatures that are not believed, and
# some that are. They live for a hundred years; the tests' clock stands in 2027.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
name='spiffe://countersign.lab/identity/300'
cat > "$work/leaf.ext" <<X
basicConstraints=critical,CA:false
keyUsage=critical,digitalSignature
extendedKeyUsage=serverAuth,clientAuth
subjectAltName=URI:$name
X
printf 'basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign\n' > "$work/ca.ext"

# ca NAME DIGEST KEY_OPTIONS...: a self-signed authority
ca() {
    local to=$1 digest=$2; shift 2
    openssl genpkey "$@" -out "$work/$to.key" 2> /dev/null
    openssl req -new -key "$work/$to.key" -subj "/CN=$to" -out "$work/$to.csr"
    openssl x509 -req -in "$work/$to.csr" -signkey "$work/$to.key" $digest -days 36500 -extfile "$work/ca.ext" -out "$work/$to.pem" 2> /dev/null
    openssl x509 -in "$work/$to.pem" -outform der -out "$to.der"
}

# leaf NAME CA OPTIONS -- KEY_OPTIONS...: a leaf below an authority
leaf() {
    local to=$1 ca=$2 options=$3; shift 4
    openssl genpkey "$@" -out "$work/$to.key" 2> /dev/null
    openssl req -new -key "$work/$to.key" -subj "/CN=$to" -out "$work/$to.csr" $([ "$1 $2" = "-algorithm ED448" ] || echo -sha256)
    openssl x509 -req -in "$work/$to.csr" -CA "$work/$ca.pem" -CAkey "$work/$ca.key" $options -days 36500 -extfile "$work/leaf.ext" -out "$work/$to.pem" 2> /dev/null
    openssl x509 -in "$work/$to.pem" -outform der -out "$to.der"
}

p256="-algorithm EC -pkeyopt ec_paramgen_curve:P-256"
ca ca-p256 -sha256 $p256
ca ca-rsa -sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:2048
ca ca-sha1 -sha1 -algorithm RSA -pkeyopt rsa_keygen_bits:2048
ca ca-rsa2047 -sha256 -algorithm RSA -pkeyopt rsa_keygen_bits:2047
leaf leaf-pss256 ca-rsa "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32" -- $p256
leaf leaf-pss1 ca-rsa "-sha1 -sigopt rsa_padding_mode:pss" -- $p256
leaf leaf-sha224 ca-rsa -sha224 -- $p256
leaf leaf-sha1-ecdsa ca-p256 -sha1 -- $p256
leaf leaf-rsa2047 ca-p256 -sha256 -- -algorithm RSA -pkeyopt rsa_keygen_bits:2047
leaf leaf-ed448 ca-p256 -sha256 -- -algorithm ED448
leaf leaf-secp256k1 ca-p256 -sha256 -- -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1
leaf leaf-explicit ca-p256 -sha256 -- $p256 -pkeyopt ec_param_enc:explicit
openssl x509 -req -in "$work/leaf-pss256.csr" -CA "$work/ca-p256.pem" -CAkey "$work/ca-p256.key" -sha256 -days 36500 -outform der -out leaf-v1.der 2> /dev/null
