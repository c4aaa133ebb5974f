//! Names of drop reasons: Hubble's for the field's numbers, our own constants' for ours.

use countersign_ebpf_common::reason;

/// Number and name, in the order of the numbers.
const NAMES: &[(u8, &str)] = &[
    (reason::INVALID_SOURCE_MAC, "INVALID_SOURCE_MAC"),
    (reason::INVALID_DESTINATION_MAC, "INVALID_DESTINATION_MAC"),
    (reason::INVALID_SOURCE_IP, "INVALID_SOURCE_IP"),
    (reason::POLICY_DENIED, "POLICY_DENIED"),
    (reason::INVALID_PACKET, "INVALID_PACKET_DROPPED"),
    (reason::TRUNCATED, "CT_TRUNCATED_OR_INVALID_HEADER"),
    (reason::UNKNOWN_L4, "UNKNOWN_L4_PROTOCOL"),
    (reason::UNKNOWN_ICMP4_TYPE, "UNKNOWN_ICMPV4_TYPE"),
    (reason::UNKNOWN_ICMP6_TYPE, "UNKNOWN_ICMPV6_TYPE"),
    (reason::STALE_OR_UNROUTABLE, "STALE_OR_UNROUTABLE_IP"),
    (reason::CT_INSERT_FAILED, "CT_MAP_INSERTION_FAILED"),
    (reason::INVALID_EXTENSION_HEADER, "INVALID_IPV6_EXTENSION_HEADER"),
    (reason::FRAG_NOSUPPORT, "IP_FRAGMENTATION_NOT_SUPPORTED"),
    (reason::NO_CONFIG, "NO_CONFIGURATION_AVAILABLE_TO_PERFORM_POLICY_DECISION"),
    (reason::UNSUPPORTED_L2, "UNSUPPORTED_L2_PROTOCOL"),
    (reason::INVALID_IDENTITY, "INVALID_IDENTITY"),
    (reason::FRAG_NOT_FOUND, "FIRST_LOGICAL_DATAGRAM_FRAGMENT_NOT_FOUND"),
    (reason::FORBIDDEN_ICMP6, "FORBIDDEN_ICMPV6_MESSAGE"),
    (reason::POLICY_DENY, "POLICY_DENY"),
    (reason::VLAN, "VLAN_FILTERED"),
    (reason::AUTH_REQUIRED, "AUTH_REQUIRED"),
    (reason::UNENCRYPTED_TRAFFIC, "UNENCRYPTED_TRAFFIC"),
    (reason::RATE_LIMITED, "DROP_RATE_LIMITED"),
    (reason::EP_NOT_READY, "DROP_EP_NOT_READY"),
    (reason::MULTICAST, "MULTICAST"),
    (reason::FRAG_INVALID, "FRAG_INVALID"),
    (reason::ICMP_UNRELATED, "ICMP_UNRELATED"),
    (reason::PARKED, "PARKED"),
    (reason::PARK_FULL, "PARK_FULL"),
    (reason::AUTH_BACKOFF, "AUTH_BACKOFF"),
    (reason::AGENT_PORT, "AGENT_PORT"),
    (reason::AUTH_IMPOSSIBLE, "AUTH_IMPOSSIBLE"),
    (reason::PARK_INVALID, "PARK_INVALID"),
    (reason::PARK_AGAIN, "PARK_AGAIN"),
    (reason::ARP_SPOOF, "ARP_SPOOF"),
    (reason::OVERTOOK, "OVERTOOK_PARKED"),
    (reason::AUDITED, "AUDITED"),
    (reason::ADDRESS_UNKNOWN, "ADDRESS_UNKNOWN"),
];

/// The name of a drop reason; empty for 0, which is none, `UNKNOWN` for a number that is no reason.
#[must_use]
pub fn name(number: u8) -> &'static str {
    if number == reason::FORWARDED {
        return "";
    }
    NAMES.iter().find(|(known, _)| *known == number).map_or("UNKNOWN", |(_, name)| name)
}

/// The number of a drop reason by its name, in any case.
#[must_use]
pub fn number(name: &str) -> Option<u8> {
    NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name)).map(|(number, _)| *number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_of_the_programs_has_one_name() {
        for &(number_of, _) in reason::ALL.iter().filter(|(number, _)| *number != reason::FORWARDED) {
            let name = name(number_of);
            assert_ne!(name, "UNKNOWN", "{number_of}");
            assert_eq!(number(name), Some(number_of), "{name}");
        }
        assert_eq!(NAMES.len(), reason::ALL.len() - 1);
        assert_eq!((name(0), name(255)), ("", "UNKNOWN"));
        assert_eq!(number("auth_required"), Some(189));
        assert_eq!(number("unknown"), None);
    }
}
