//! Numbers with their units.

/// `2h5m`, `5m12s`, `12s`, `3d4h`: two units at most.
#[must_use]
pub fn seconds(total: u64) -> String {
    const UNITS: [(u64, char); 4] = [(86_400, 'd'), (3600, 'h'), (60, 'm'), (1, 's')];
    let first = UNITS.iter().position(|(size, _)| total >= *size).unwrap_or(UNITS.len() - 1);
    let (size, unit) = UNITS[first];
    let mut text = format!("{}{unit}", total / size);
    if let Some((next, unit)) = UNITS.get(first + 1) {
        let rest = total % size / next;
        if rest > 0 {
            text.push_str(&format!("{rest}{unit}"));
        }
    }
    text
}

/// Time from `now` until `then`, both in seconds since the Unix epoch: `12m` or `expired 3s ago`.
#[must_use]
pub fn until(then: u64, now: u64) -> String {
    if then >= now { seconds(then - now) } else { format!("expired {} ago", seconds(now - then)) }
}

/// Time since: `3s ago`; a clock that went back makes it `now`.
#[must_use]
pub fn since(then: u64, now: u64) -> String {
    match now.checked_sub(then) {
        Some(ago) if ago > 0 => format!("{} ago", seconds(ago)),
        _ => "now".into(),
    }
}

/// `0.42 ms`, `2.6 ms`, `130 ms`, `1.02 s`.
#[must_use]
pub fn millis(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 100.0 => format!("{ms:.1} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// `512 B`, `1.2 KiB`, `34.0 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        // What would be printed as 1024.0 is one of the next unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    format!("{value:.1} {unit}")
}

/// `1 packet`, `2 packets`.
#[must_use]
pub fn count(n: u64, one: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {one}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (total, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (312, "5m12s"),
            (3600, "1h"),
            (7505, "2h5m"),
            (273_600, "3d4h"),
            (86_401, "1d"),
        ] {
            assert_eq!(seconds(total), text);
        }
        assert_eq!((until(100, 40), until(40, 100)), ("1m".into(), "expired 1m ago".into()));
        assert_eq!((since(40, 100), since(100, 40)), ("1m ago".into(), "now".into()));
    }

    #[test]
    fn sizes_and_latencies() {
        for (n, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1.0 MiB"),
            (1_572_864, "1.5 MiB"),
            (u64::MAX, "16777216.0 TiB"),
        ] {
            assert_eq!(bytes(n), text);
        }
        for (ms, text) in [(0.4241, "0.42 ms"), (2.63, "2.6 ms"), (130.4, "130 ms"), (1017.0, "1.02 s")] {
            assert_eq!(millis(ms), text);
        }
        assert_eq!((count(1, "packet"), count(0, "packet")), ("1 packet".into(), "0 packets".into()));
    }
}
