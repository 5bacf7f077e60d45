//! Sizes as Kubernetes writes them.

/// `500Gi` in bytes; also `536870912k` and plain numbers, as the API server may write them. None for what is no whole size.
pub fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn reads_sizes() {
        assert_eq!(bytes("1Gi"), Some(1 << 30));
        assert_eq!(bytes("12"), Some(12));
        assert_eq!(bytes("3k"), Some(3_000));
        for none in ["", "Gi", "1.5Gi", "1Xi", "-1", "99999999999Pi"] {
            assert_eq!(bytes(none), None, "{none}");
        }
    }
}
