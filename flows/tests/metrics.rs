//! The exposition: names, units, order, and series that nobody outside can add to.

use std::time::Duration;

use countersign_flows::{LossSource, Metrics};

fn filled() -> Metrics {
    let metrics = Metrics::new();
    metrics.handshake_ok(Duration::from_micros(2600));
    metrics.handshake_ok(Duration::from_millis(900));
    metrics.handshake_failed("timeout");
    metrics.handshake_failed("untrusted");
    metrics.set_handshakes_in_flight(3);
    metrics.parked(5);
    metrics.set_parked_now(1);
    metrics.released(3);
    metrics.discarded("deadline", 1);
    metrics.set_dropped(189, "ingress", 7);
    metrics.set_dropped(133, "egress", 2);
    metrics.set_forwarded("ingress", 11);
    metrics.set_audited("egress", 6);
    metrics.policy_overflow();
    metrics.set_policy_behind(2);
    metrics.set_auth_entries("authenticated", 4);
    metrics.set_auth_next_expiry(Duration::from_secs(1800));
    metrics.set_svids(2, Duration::from_secs(3600));
    metrics.svid_rotated("ok");
    metrics.set_identity_source_up(false, Some(1_700_000_000));
    assert!(metrics.render().contains("countersign_identity_source_down_since_seconds 1700000000"));
    metrics.set_identity_source_up(true, None);
    metrics.set_policies(6, 1);
    metrics.set_endpoints(2);
    metrics.set_encrypt_peers(1);
    metrics.set_leaks_prevented(1);
    metrics.events_lost(LossSource::RingBuffer, 9);
    metrics.flow("DROPPED", "drop");
    metrics.set_api_refused("peer", 1);
    metrics
}

#[test]
fn values() {
    let text = filled().render();
    for line in [
        r#"countersign_auth_handshakes_total{result="ok"} 2"#,
        r#"countersign_auth_handshakes_total{result="timeout"} 1"#,
        "countersign_auth_handshake_duration_seconds_count 2",
        r#"countersign_auth_handshake_duration_seconds_bucket{le="0.004"} 1"#,
        "countersign_auth_handshakes_in_flight 3",
        r#"countersign_auth_entries{state="authenticated"} 4"#,
        "countersign_auth_next_expiry_seconds 1800.0",
        "countersign_parking_parked_packets_total 5",
        "countersign_parking_held_packets 1",
        "countersign_parking_released_packets_total 3",
        r#"countersign_parking_discarded_packets_total{reason="deadline"} 1"#,
        r#"countersign_dropped_packets_total{reason="AUTH_REQUIRED",direction="ingress"} 7"#,
        r#"countersign_dropped_packets_total{reason="POLICY_DENIED",direction="egress"} 2"#,
        r#"countersign_forwarded_packets_total{direction="ingress"} 11"#,
        r#"countersign_audited_total{direction="egress"} 6"#,
        "countersign_policy_map_overflows_total 1",
        "countersign_policy_endpoints_behind 2",
        "countersign_svids 2",
        "countersign_svid_next_expiry_seconds 3600.0",
        r#"countersign_svid_rotations_total{result="ok"} 1"#,
        "countersign_identity_source_up 1",
        "countersign_identity_source_down_since_seconds 0",
        "countersign_policy_documents 6",
        "countersign_policy_documents_refused 1",
        "countersign_endpoints 2",
        "countersign_encrypt_peers 1",
        "countersign_encrypt_leaks_prevented_packets_total 1",
        r#"countersign_events_lost_total{source="ring_buffer"} 9"#,
        r#"countersign_flows_total{verdict="DROPPED",type="drop"} 1"#,
        r#"countersign_api_refused_total{reason="peer"} 1"#,
    ] {
        assert!(text.lines().any(|have| have == line), "{line}\nis not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn order_is_fixed_and_buckets_keep_theirs() {
    let text = filled().render();
    for _ in 0..10 {
        assert_eq!(filled().render(), text);
    }
    let buckets: Vec<f64> = text
        .lines()
        .filter_map(|line| {
            line.split_once("_bucket{le=\"")?.1.split_once('"')?.0.replace("+Inf", "inf").parse().ok()
        })
        .collect();
    assert_eq!(buckets.len(), 17);
    assert!(buckets.is_sorted(), "{buckets:?}");
}

#[test]
fn a_counter_of_the_kernel_never_goes_down() {
    let metrics = Metrics::new();
    for total in [5, 9, 2, 9, 10] {
        metrics.set_dropped(133, "ingress", total);
    }
    assert!(
        metrics
            .render()
            .contains(r#"countersign_dropped_packets_total{reason="POLICY_DENIED",direction="ingress"} 10"#)
    );
}

#[test]
fn every_number_of_a_reason_makes_a_bounded_number_of_series() {
    let metrics = Metrics::new();
    for reason in 0..=255 {
        metrics.set_dropped(reason, "ingress", 1);
    }
    let series = metrics
        .render()
        .lines()
        .filter(|line| line.starts_with("countersign_dropped_packets_total{"))
        .count();
    assert!(series <= 64, "{series}");
}
