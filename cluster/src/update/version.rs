//! Versions in their order. PURE.

/// Whether one version comes after another: by its numbers, 0.10 after 0.9; what stands behind `~` came before it.
#[must_use]
pub fn is_newer(one: &str, other: &str) -> bool {
    let numbers = |text: &str| -> Vec<u64> {
        let parts = text.split(|c: char| !c.is_ascii_digit());
        parts.filter(|part| !part.is_empty()).map(|part| part.parse().unwrap_or(u64::MAX)).collect()
    };
    let order = |text: &str| {
        let (version, before) =
            text.split_once('~').map_or((text, None), |(first, rest)| (first, Some(rest)));
        (numbers(version), before.is_none(), before.map(numbers))
    };
    order(one) > order(other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_number() {
        for (one, other, newer) in [
            ("0.2.0", "0.1.0", true),
            ("0.10.0", "0.9.9", true),
            ("0.1.0", "0.1.0", false),
            ("0.1.0", "0.2.0", false),
            ("1.0", "0.9.9", true),
            ("0.1.0-7", "0.1.0", true),
            ("0.2.0", "0.2.0~rc1", true),
            ("0.2.0~rc1", "0.2.0", false),
            ("0.2.0~rc2", "0.2.0~rc1", true),
            ("0.2.0~rc1", "0.1.9", true),
        ] {
            assert_eq!(is_newer(one, other), newer, "{one} {other}");
        }
    }
}
